package imgopen

import (
	"encoding/base64"
	"maps"
	"os"
	"slices"
	"strings"
)

// Secrets are passphrases by the id that other options name them by.
type Secrets map[string][]byte

// Add adds what the argument of --object defines: secret,id=ID with data=TEXT
// or file=PATH, and format=raw or format=base64; or the same as an object in
// JSON.
func (s Secrets) Add(def string) error {
	o := newOptions(def)
	if strings.HasPrefix(def, "{") {
		var err error
		if o, err = parseJSON(def, def); err != nil {
			return err
		}
	} else {
		for i, p := range SplitOptions(def) {
			if p.Bare && i == 0 {
				p.Key, p.Value = "qom-type", p.Key
			}
			o.value[p.Key] = p.Value
		}
	}
	return s.add(o)
}

func (s Secrets) add(o options) error {
	kind, _ := o.take("qom-type")
	if kind != "secret" {
		return messagef("Parameter 'qom-type' does not accept value '%s'", kind)
	}
	id, ok := o.take("id")
	if !ok {
		return messagef("Parameter 'id' is missing")
	}
	format, ok := o.take("format")
	if ok && format != "raw" && format != "base64" {
		return messagef("Parameter 'format' does not accept value '%s'", format)
	}
	data, haveData := o.take("data")
	file, haveFile := o.take("file")
	if _, ok := o.value["keyid"]; ok {
		return messagef("Secrets that are encrypted with another one are not supported")
	}
	if left := slices.Sorted(maps.Keys(o.value)); len(left) > 0 {
		return messagef("Parameter '%s' is unexpected", left[0])
	}
	switch {
	case haveData == haveFile && haveData:
		return messagef("'file' and 'data' are mutually exclusive")
	case haveFile:
		b, err := os.ReadFile(file)
		if err != nil {
			return messagef("Unable to read %s: %v", file, &osError{err})
		}
		data = string(b)
	case !haveData:
		return messagef("Either 'file' or 'data' must be provided")
	}
	secret := []byte(data)
	if format == "base64" {
		b, err := base64.StdEncoding.DecodeString(strings.NewReplacer("\n", "", "\r", "").Replace(data))
		if err != nil {
			return messagef("Unable to decode secret: %v", err)
		}
		secret = b
	}
	s[id] = secret
	return nil
}

// Get returns a copy of the secret of that id.
func (s Secrets) Get(id string) ([]byte, error) {
	b, ok := s[id]
	if !ok {
		return nil, messagef("No secret with id '%s'", id)
	}
	return append([]byte(nil), b...), nil
}
