package imgopen

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// A kind is what values an option can have: one of some words, a switch, a size
// or a number.
type kind struct {
	words []string // of an enumeration
	of    byte     // 's' size, 'n' number, 'b' switch, ' ' anything, or 0
}

// check holds that a value is one that the option of a driver can have.
func (k kind) check(driver, key, value string) error {
	switch k.of {
	case ' ':
		return nil
	case 'b':
		if _, ok := Switch(value); !ok {
			return messagef("Parameter '%s' expects 'on' or 'off'", key)
		}
		return nil
	case 's':
		if _, err := ParseSize(value); err != nil {
			return messagef("Parameter '%s' expects a non-negative number below 2^64\n"+
				"Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively.", key)
		}
		return nil
	case 'n':
		if _, err := strconv.ParseUint(value, 0, 64); err != nil {
			return messagef("Parameter '%s' expects a number", key)
		}
		return nil
	}
	if slices.Contains(k.words, value) {
		return nil
	}
	switch key {
	case "discard":
		return messagef("Invalid discard option")
	case "overlap-check", "overlap-check.template":
		return messagef("Unsupported value '%s' for %s option '%s'. Allowed are any of the following: none, constant, cached, all", value, driver, key)
	}
	return messagef("invalid parameter value: %s", value)
}

// Switch returns what a word such as on or off says.
func Switch(word string) (on, ok bool) {
	switch word {
	case "on", "yes", "true", "y":
		return true, true
	case "off", "no", "false", "n":
		return false, true
	}
	return false, false
}

// kindsOf returns the options of a driver that are no more to be used where an
// image is open: they were used before, or say how fast something is done, not
// what.
func kindsOf(driver string) map[string]kind {
	all := map[string]kind{
		"node-name": {of: ' '}, "auto-read-only": {of: 'b'},
		"discard":       {words: []string{"ignore", "off", "unmap", "on"}},
		"detect-zeroes": {words: []string{"off", "on", "unmap"}},
	}
	switch driver {
	case "file", "host_device":
		maps.Copy(all, map[string]kind{
			"aio": {words: []string{"threads", "native", "io_uring"}}, "locking": {words: []string{"on", "off", "auto"}},
			"aio-max-batch": {of: 'n'}, "drop-cache": {of: 'b'}, "x-check-cache-dropped": {of: 'b'},
		})
	case "qcow2":
		overlap := kind{words: []string{"none", "constant", "cached", "all"}}
		maps.Copy(all, map[string]kind{
			"lazy-refcounts": {of: 'b'}, "overlap-check": overlap, "overlap-check.template": overlap,
			"l2-cache-entry-size": {of: 's'}, "refcount-cache-size": {of: 's'}, "cache-clean-interval": {of: 'n'},
			"pass-discard-request": {of: 'b'}, "pass-discard-snapshot": {of: 'b'}, "pass-discard-other": {of: 'b'},
		})
		for what := range strings.FieldsSeq("main-header active-l1 active-l2 refcount-table refcount-block snapshot-table inactive-l1 inactive-l2 bitmap-directory") {
			all["overlap-check."+what] = kind{of: 'b'}
		}
	}
	return all
}

// common takes the options that all drivers have of how an image is opened, and
// returns o with what they say.
func (o options) common(above *Options) (*Options, error) {
	own := *above
	readOnly, share := false, false
	for key, to := range map[string]*bool{"cache.direct": &own.Direct, "cache.no-flush": &own.NoSync, "read-only": &readOnly, "force-share": &share} {
		text, given := o.take(key)
		if !given {
			continue
		}
		on, ok := Switch(text)
		if !ok {
			return nil, messagef("Parameter '%s' expects 'on' or 'off'", key)
		}
		*to = on
	}
	if text, given := o.value["discard"]; given {
		own.Discard = text == "unmap" || text == "on"
	}
	switch {
	case readOnly && own.Write:
		return nil, messagef("Block node is read-only")
	case share && own.Write:
		return nil, messagef("force-share=on can only be used with read-only images")
	case o.value["detect-zeroes"] == "unmap" && !own.Discard:
		return nil, messagef("setting detect-zeroes to unmap is not allowed without setting discard operation to unmap")
	}
	own.NoLock = own.NoLock || share
	return &own, nil
}
