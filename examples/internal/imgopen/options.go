package imgopen

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// options are those of an image: by name, of which the parts are joined by
// dots, as in file.filename.
type options struct {
	name   string // the image as the user gave it
	value  map[string]string
	null   map[string]bool // what is null in JSON
	number map[string]bool // what is a number in JSON
}

func newOptions(name string) options {
	return options{name, make(map[string]string), make(map[string]bool), make(map[string]bool)}
}

// quoted returns the value of an option as it is in JSON.
func (o options) quoted(key, value string) string {
	if o.number[key] {
		return value
	}
	return quote(value)
}

// take returns the value of an option and removes it.
func (o options) take(key string) (string, bool) {
	v, ok := o.value[key]
	delete(o.value, key)
	return v, ok
}

// sub takes the options below a prefix such as "file".
func (o options) sub(prefix string) options {
	s := newOptions(o.name)
	for k, v := range o.value {
		if rest, ok := strings.CutPrefix(k, prefix+"."); ok {
			s.value[rest], s.number[rest] = v, o.number[k]
			delete(o.value, k)
		}
	}
	for k := range o.null {
		if rest, ok := strings.CutPrefix(k, prefix+"."); ok {
			s.null[rest] = true
			delete(o.null, k)
		}
	}
	return s
}

func (o options) empty() bool { return len(o.value)+len(o.null) == 0 }

// finish holds that no option is left that a driver does not know, and that the
// others have values that they can have.
func (o options) finish(driver string) error {
	known := kindsOf(driver)
	for _, k := range slices.Sorted(maps.Keys(o.value)) {
		kind, ok := known[k]
		if !ok {
			continue
		}
		if err := kind.check(driver, k, o.value[k]); err != nil {
			return err
		}
	}
	left := slices.Sorted(maps.Keys(o.value))
	left = append(left, slices.Sorted(maps.Keys(o.null))...)
	left = slices.DeleteFunc(left, func(k string) bool { _, ok := known[k]; return ok })
	if len(left) == 0 {
		return nil
	}
	if driver == "file" || driver == "host_device" {
		return messagef("Block protocol '%s' doesn't support the option '%s'", driver, left[0])
	}
	return messagef("Block format '%s' does not support the option '%s'", driver, left[0])
}

// A message is an error in the words of QEMU's tools.
type message string

func (m message) Error() string { return string(m) }

func messagef(format string, args ...any) error { return message(fmt.Sprintf(format, args...)) }

// A Pair is one option of a list.
type Pair struct {
	Key, Value string
	Bare       bool // it stood alone, without "="
}

// SplitOptions takes apart a list of options, KEY=VALUE,..., in which a comma
// of a value is doubled.
func SplitOptions(list string) []Pair {
	var pairs []Pair
	for len(list) > 0 {
		var item []byte
		i := 0
		for ; i < len(list); i++ {
			if list[i] == ',' {
				if i+1 == len(list) || list[i+1] != ',' {
					break
				}
				i++
			}
			item = append(item, list[i])
		}
		list = list[min(i+1, len(list)):]
		key, value, ok := strings.Cut(string(item), "=")
		pairs = append(pairs, Pair{key, value, !ok})
	}
	return pairs
}

// parseList parses what --image-opts stands for.
func parseList(list string) (options, error) {
	o := newOptions(list)
	for i, p := range SplitOptions(list) {
		switch {
		case p.Bare && i == 0:
			return o, messagef("Cannot find device='%s' nor node-name='%s'", p.Key, p.Key)
		case p.Bare:
			p.Value = "on"
		}
		o.value[p.Key] = p.Value
	}
	return o, nil
}

// parseJSON parses what follows "json:".
func parseJSON(name, text string) (options, error) {
	o := newOptions(name)
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return o, messagef("Could not parse the JSON options: %v", err)
	}
	m, ok := v.(map[string]any)
	if !ok || dec.More() {
		return o, messagef("Invalid JSON object given")
	}
	o.flatten("", m)
	return o, nil
}

// flatten adds the members of a JSON object.
func (o options) flatten(prefix string, m map[string]any) {
	for k, v := range m {
		o.add(prefix+k, v)
	}
}

func (o options) add(key string, v any) {
	switch v := v.(type) {
	case map[string]any:
		o.flatten(key+".", v)
	case []any:
		for i, e := range v {
			o.add(key+"."+strconv.Itoa(i), e)
		}
	case nil:
		o.null[key] = true
	case json.Number:
		o.value[key], o.number[key] = v.String(), true
	case bool:
		o.value[key] = map[bool]string{true: "on", false: "off"}[v]
	default:
		o.value[key] = fmt.Sprint(v)
	}
}

// quote returns s as QEMU writes it in JSON.
func quote(s string) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		return `""`
	}
	return strings.TrimSuffix(b.String(), "\n")
}
