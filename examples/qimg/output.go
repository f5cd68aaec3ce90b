package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"
)

// An object is one of JSON, whose members have an order.
type object []member

type member struct {
	key   string
	value any // an object, a list, or what package json takes
}

type list []any

func (o *object) add(key string, value any) { *o = append(*o, member{key, value}) }

// writeJSON writes v as qemu-img does, with indents of four spaces.
func writeJSON(w io.Writer, v any) error {
	var b strings.Builder
	appendJSON(&b, v, "")
	b.WriteByte('\n')
	_, err := io.WriteString(w, b.String())
	return err
}

func appendJSON(b *strings.Builder, v any, indent string) {
	inner := indent + "    "
	switch v := v.(type) {
	case object:
		b.WriteString("{")
		for i, m := range v {
			separate(b, i, inner)
			appendJSON(b, m.key, inner)
			b.WriteString(": ")
			appendJSON(b, m.value, inner)
		}
		b.WriteString("\n" + indent + "}")
	case list:
		b.WriteString("[")
		for i, e := range v {
			separate(b, i, inner)
			appendJSON(b, e, inner)
		}
		b.WriteString("\n" + indent + "]")
	default:
		var text strings.Builder
		enc := json.NewEncoder(&text)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(v); err != nil {
			text.WriteString("null")
		}
		b.WriteString(strings.TrimSuffix(text.String(), "\n"))
	}
}

func separate(b *strings.Builder, i int, indent string) {
	if i > 0 {
		b.WriteString(",")
	}
	b.WriteString("\n" + indent)
}

// writeText writes the members of o as qemu-img does for people.
func writeText(w io.Writer, o object, indent string) {
	for _, m := range o {
		fmt.Fprintf(w, "%s%s:", indent, strings.ReplaceAll(m.key, "-", " "))
		writeTextValue(w, m.value, indent)
	}
}

func writeTextValue(w io.Writer, v any, indent string) {
	switch v := v.(type) {
	case object:
		fmt.Fprintln(w)
		writeText(w, v, indent+"    ")
	case list:
		fmt.Fprintln(w)
		for i, e := range v {
			fmt.Fprintf(w, "%s    [%d]:", indent, i)
			writeTextValue(w, e, indent+"    ")
		}
	default:
		fmt.Fprintf(w, " %v\n", v)
	}
}

// human returns a number of bytes in the largest unit that keeps it at 1000 of
// it or less, with three digits: 1 MiB, 1.5 GiB.
func human(n int64) string {
	const units = " KMGTPE"
	_, exp := math.Frexp(float64(n) / (1000.0 / 1024.0))
	unit := max(0, (exp-1)/10)
	s := fmt.Sprintf("%.3g ", float64(n)/float64(int64(1)<<(10*unit)))
	if unit > 0 {
		s += units[unit:unit+1] + "i"
	}
	return s + "B"
}
