package main

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/virtfmt/virtfmt/migschema"
)

// A dumpLine is a line in JSON.
type dumpLine struct {
	Offset  int64  `json:"offset"`
	Tag     string `json:"tag,omitempty"`
	Path    string `json:"path"`
	Type    string `json:"type"`
	Section string `json:"section,omitempty"`
	Field   string `json:"field,omitempty"`
	Value   any    `json:"value,omitempty"`
	Hex     string `json:"hex,omitempty"`    // in place of Value
	Octets  *int   `json:"octets,omitempty"` // with Hex, of all
}

// A printer prints the lines of a dump.
type printer struct {
	w     *bufio.Writer
	json  bool
	data  int // octets of each string, -1 for all
	lines int
}

func (p *program) dump(args []string) error {
	fields := p.flags.Bool("fields", false, "print the fields of devices alone")
	noPages := p.flags.Bool("no-pages", false, "leave pages out")
	section := p.flags.String("section", "", "print one section alone, such as cpu")
	data := p.flags.Int("data", 16, "octets to print of each string, -1 for all")
	args, err := p.parse(args, 1, 1)
	if err != nil {
		return err
	}
	o, err := p.options()
	if err != nil {
		return err
	}
	src, done, err := p.open(args[0])
	if err != nil {
		return err
	}
	defer done()
	out := &printer{w: bufio.NewWriter(p.out), json: p.json, data: *data}
	found := *section == ""
	out.begin()
	for l, lerr := range migschema.Dump(src, o) {
		if err = lerr; err != nil {
			break
		}
		found = found || l.Section == *section
		switch {
		case *fields && l.Field == "", *section != "" && l.Section != *section, *noPages && isPage(l):
			continue
		}
		if err = out.line(l); err != nil {
			break
		}
	}
	if end := out.end(); err == nil {
		err = end
	}
	if err == nil && !found {
		err = fmt.Errorf("the stream has no section %q", *section)
	}
	return err
}

// isPage reports whether a line is of a page of RAM.
func isPage(l *migschema.Line) bool {
	if strings.Contains(l.Path, ".pagelist[") {
		return true
	}
	switch l.Type {
	case "zero", "full", "xbzrle", "compressed", "hook", "flush":
		return l.Section == "ram" && l.Field == "" && l.Path != "ram"
	}
	return false
}

func (out *printer) begin() {
	if out.json {
		out.w.WriteString("[")
	}
}

func (out *printer) end() error {
	if out.json {
		out.w.WriteString("\n]\n")
	}
	return out.w.Flush()
}

// line prints a line.
func (out *printer) line(l *migschema.Line) error {
	out.lines++
	if !out.json {
		_, err := io.WriteString(out.w, out.text(l))
		return err
	}
	j := dumpLine{Offset: l.Offset, Tag: l.Tag, Path: l.Path, Type: l.Type, Section: l.Section, Field: l.Field, Value: l.Value}
	if b, ok := l.Value.([]byte); ok {
		n := len(b)
		j.Value, j.Hex, j.Octets = nil, hex.EncodeToString(out.some(b)), &n
	}
	b, err := json.Marshal(j)
	if err != nil {
		return err
	}
	if out.lines > 1 {
		out.w.WriteString(",")
	}
	out.w.WriteString("\n")
	_, err = out.w.Write(b)
	return err
}

// some returns as much of b as is to be printed.
func (out *printer) some(b []byte) []byte {
	if out.data >= 0 && len(b) > out.data {
		return b[:out.data]
	}
	return b
}

// text returns a line as text.
func (out *printer) text(l *migschema.Line) string {
	s := fmt.Sprintf("%#010x %-21s %s", l.Offset, l.Tag, l.Path)
	if l.Field != "" && !strings.HasSuffix(l.Path, l.Field) {
		s += " {" + l.Section + " " + l.Field + "}"
	}
	s += " " + strings.ReplaceAll(l.Type, " ", "-")
	switch v := l.Value.(type) {
	case nil:
	case string:
		s += " " + out.quoted([]byte(v))
	case []byte:
		if text := strings.TrimRight(string(v), "\x00"); text != "" && printable(text) {
			s += " " + out.quoted([]byte(text))
		} else {
			s += " " + hex.EncodeToString(out.some(v)) + more(len(v), len(out.some(v)))
		}
	default:
		s += fmt.Sprint(" ", v)
	}
	return s + "\n"
}

// quoted returns text in quotes, four times as much as there would be octets.
func (out *printer) quoted(b []byte) string {
	some := b
	if out.data >= 0 && len(b) > 4*out.data {
		some = b[:4*out.data]
	}
	return strconv.Quote(string(some)) + more(len(b), len(some))
}

func more(n, shown int) string {
	if n == shown {
		return ""
	}
	return fmt.Sprintf("... (%d octets)", n)
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return len(s) > 3
}
