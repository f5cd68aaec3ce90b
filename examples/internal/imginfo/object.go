// Package imginfo describes disk images in the words of QEMU's programs, as JSON and
// as text.
package imginfo

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// An Object is one of JSON, whose members have an order.
type Object []Member

// A Member is a key, which is a string, and a value: an Object, a List, or what
// package json takes.
type Member [2]any

// A List is one of JSON.
type List []any

// Add adds a member at the end.
func (o *Object) Add(key string, value any) { *o = append(*o, Member{key, value}) }

// WriteJSON writes v as qemu-img does, with indents of four spaces.
func WriteJSON(w io.Writer, v any) error {
	var b strings.Builder
	appendJSON(&b, v, "")
	b.WriteByte('\n')
	_, err := io.WriteString(w, b.String())
	return err
}

func appendJSON(b *strings.Builder, v any, indent string) {
	inner := indent + "    "
	switch v := v.(type) {
	case Object:
		b.WriteString("{")
		for i, m := range v {
			separate(b, i, inner)
			appendJSON(b, m[0], inner)
			b.WriteString(": ")
			appendJSON(b, m[1], inner)
		}
		b.WriteString("\n" + indent + "}")
	case List:
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

// WriteText writes the members of o as qemu-img does for people.
func WriteText(w io.Writer, o Object, indent string) {
	for _, m := range o {
		fmt.Fprintf(w, "%s%s:", indent, strings.ReplaceAll(m[0].(string), "-", " "))
		writeTextValue(w, m[1], indent)
	}
}

func writeTextValue(w io.Writer, v any, indent string) {
	switch v := v.(type) {
	case Object:
		fmt.Fprintln(w)
		WriteText(w, v, indent+"    ")
	case List:
		fmt.Fprintln(w)
		for i, e := range v {
			fmt.Fprintf(w, "%s    [%d]:", indent, i)
			writeTextValue(w, e, indent+"    ")
		}
	default:
		fmt.Fprintf(w, " %v\n", v)
	}
}
