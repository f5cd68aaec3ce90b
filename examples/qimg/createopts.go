package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/virtfmt/virtfmt/examples/internal/imgopen"
)

// The kinds of value that creation options have.
const (
	isText = iota
	isSize
	isBool
	isNumber
)

// A createOption is one that -o takes.
type createOption struct {
	name     string
	kind     int
	help     string
	standard string // its value if none is given, or ""
	protocol bool   // it is of the file that the image lies in
}

// createOptions returns the options of a format, in the order in which qemu-img
// prints those that are set.
func createOptions(format string) []createOption {
	size := createOption{name: "size", kind: isSize, help: "Virtual disk size"}
	backing := []createOption{
		{name: "backing_file", help: "File name of a base image"},
		{name: "backing_fmt", help: "Image format of the base image"},
	}
	nocow := createOption{name: "nocow", kind: isBool, help: "Turn off copy-on-write (valid only on btrfs)", protocol: true}
	prealloc := createOption{name: "preallocation", help: "Preallocation mode (allowed values: off, falloc, full)", protocol: true}
	hint := createOption{name: "extent_size_hint", kind: isSize, help: "Extent size hint for the image file, 0 to disable", protocol: true}
	switch format {
	case "raw", "file":
		return []createOption{size, nocow, prealloc, hint}
	case "qed":
		opts := append([]createOption{size}, backing...)
		return append(opts,
			createOption{name: "cluster_size", kind: isSize, help: "Cluster size (in bytes)", standard: "65536"},
			createOption{name: "table_size", kind: isSize, help: "L1/L2 table size (in clusters)"},
			nocow, prealloc, hint)
	case "qcow2":
		return slices.Concat(qcow2CryptOptions(), []createOption{
			{name: "cluster_size", kind: isSize, help: "qcow2 cluster size", standard: "65536"},
			{name: "extended_l2", kind: isBool, help: "Extended L2 tables", standard: "off"},
			{name: "preallocation", help: "Preallocation mode (allowed values: off, metadata, falloc, full)"},
			{name: "compression_type", help: "Compression method used for image cluster compression", standard: "zlib"},
			size,
			{name: "compat", help: "Compatibility level (v2 [0.10] or v3 [1.1])"},
		}, backing, []createOption{
			{name: "data_file", help: "File name of an external data file"},
			{name: "data_file_raw", kind: isBool, help: "The external data file must stay valid as a raw image"},
			{name: "lazy_refcounts", kind: isBool, help: "Postpone refcount updates", standard: "off"},
			{name: "refcount_bits", kind: isNumber, help: "Width of a reference count entry in bits", standard: "16"},
			nocow, hint,
		})
	}
	return nil
}

func qcow2CryptOptions() []createOption {
	return []createOption{
		{name: "encryption", kind: isBool, help: "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)"},
		{name: "encrypt.format", help: "Encrypt the image, format choices: 'aes', 'luks'"},
		{name: "encrypt.key-secret", help: "ID of secret providing qcow AES key or LUKS passphrase"},
		{name: "encrypt.cipher-alg", help: "Name of encryption cipher algorithm"},
		{name: "encrypt.cipher-mode", help: "Name of encryption cipher mode"},
		{name: "encrypt.ivgen-alg", help: "Name of IV generator algorithm"},
		{name: "encrypt.ivgen-hash-alg", help: "Name of IV generator hash algorithm"},
		{name: "encrypt.hash-alg", help: "Name of encryption hash algorithm"},
		{name: "encrypt.iter-time", kind: isNumber, help: "Time to spend in PBKDF in milliseconds"},
	}
}

// printOptions prints the options that a format has, with those of the file if
// it is named.
func (c *command) printOptions(format string, file bool) error {
	all := createOptions(format)
	if !file {
		all = slices.DeleteFunc(all, func(o createOption) bool { return o.protocol })
		fmt.Fprintf(c.stdout, "Supported %s options:\n", format)
	} else {
		fmt.Fprintln(c.stdout, "Supported options:")
	}
	c.listOptions(all)
	if !file {
		io.WriteString(c.stdout, "\nThe protocol level may support further options.\nSpecify the target filename to include those options.\n")
	}
	return nil
}

// listOptions prints options in the order of their names.
func (c *command) listOptions(all []createOption) {
	slices.SortFunc(all, func(a, b createOption) int { return strings.Compare(a.name, b.name) })
	kinds := [...]string{isText: "str", isSize: "size", isBool: "bool (on/off)", isNumber: "num"}
	for _, o := range all {
		fmt.Fprintf(c.stdout, "  %-22s - %s\n", fmt.Sprintf("%s=<%s>", o.name, kinds[o.kind]), o.help)
	}
}

// createValues are the values of options that are set.
type createValues struct {
	format string
	known  []createOption
	value  map[string]string // numbers in decimal, booleans on or off
}

// optionList holds that an argument of -o is a list that means something.
func optionList(text string) error {
	if end := len(text) - len(strings.TrimRight(text, ",")); text == "" || text[0] == ',' || end%2 == 1 {
		return messagef("Invalid option list: %s", text)
	}
	return nil
}

// wantsHelp reports whether a list of options asks which there are.
func wantsHelp(lists []string) bool {
	for _, l := range lists {
		for _, p := range imgopen.SplitOptions(l) {
			if p.Bare && (p.Key == "help" || p.Key == "?") {
				return true
			}
		}
	}
	return false
}

// parseCreate parses what -o says, each of its uses.
func parseCreate(format string, lists []string) (*createValues, error) {
	return parseOptions(format, createOptions(format), lists)
}

// parseOptions parses lists of known options.
func parseOptions(format string, known []createOption, lists []string) (*createValues, error) {
	v := &createValues{format, known, make(map[string]string)}
	for _, l := range lists {
		for _, p := range imgopen.SplitOptions(l) {
			if err := v.set(p); err != nil {
				return nil, err
			}
		}
	}
	return v, nil
}

func (v *createValues) set(p imgopen.Pair) error {
	find := func(name string) int {
		return slices.IndexFunc(v.known, func(o createOption) bool { return o.name == name })
	}
	i := find(p.Key)
	if p.Bare {
		p.Value = "on"
		if rest, ok := strings.CutPrefix(p.Key, "no"); ok && i < 0 {
			i, p.Value = find(rest), "off"
		}
	}
	if i < 0 {
		return messagef("Invalid parameter '%s'", p.Key)
	}
	o := v.known[i]
	switch o.kind {
	case isSize:
		n, err := imgopen.ParseSize(p.Value)
		if err != nil {
			return messagef("Parameter '%s' expects a non-negative number below 2^64\n"+
				"Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively.", o.name)
		}
		p.Value = fmt.Sprint(n)
	case isBool:
		if _, ok := imgopen.Switch(p.Value); !ok {
			return messagef("Parameter '%s' expects 'on' or 'off'", o.name)
		}
	case isNumber:
		n, err := parseNumber(p.Value)
		if err != nil {
			return messagef("Parameter '%s' expects a number", o.name)
		}
		p.Value = fmt.Sprint(n)
	}
	v.value[o.name] = p.Value
	return nil
}

// get returns the value of an option, or what stands for it.
func (v *createValues) get(name string) string {
	if s, ok := v.value[name]; ok {
		return s
	}
	for _, o := range v.known {
		if o.name == name {
			return o.standard
		}
	}
	return ""
}

func (v *createValues) on(name string) bool {
	on, _ := imgopen.Switch(v.get(name))
	return on
}

// number returns the value of a size or a number. It has been parsed before.
func (v *createValues) number(name string) int64 {
	n, _ := parseNumber(v.get(name))
	return n
}

// String returns what qemu-img create prints.
func (v *createValues) String() string {
	var b strings.Builder
	for _, o := range v.known {
		if s, ok := v.value[o.name]; ok || o.standard != "" {
			if !ok {
				s = o.standard
			}
			fmt.Fprintf(&b, " %s=%s", o.name, strings.ReplaceAll(s, ",", ",,"))
		}
	}
	return b.String()
}
