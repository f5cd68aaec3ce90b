package main

import (
	"encoding/hex"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/virtfmt/virtfmt/libxlfmt"
)

func (p *program) patch(args []string) error {
	record := p.flags.String("record", "", "the record: its `number` in the list, or its name where only one has that")
	entry := p.flags.String("entry", "", "an entry of HVM_CONTEXT: its name or type code, and .INSTANCE if that is not 0")
	at := p.flags.Int64("at", 0, "`offset` in the body of the record, or in the entry")
	digits := p.flags.String("hex", "", "the new bytes, in hexadecimal")
	in := p.flags.String("in", "", "`file` with the new bytes")
	dry := p.flags.Bool("n", false, "only print what would change")
	args, err := p.parse(args, 1, 1)
	if err != nil {
		return err
	}
	if *record == "" || (*digits == "") == (*in == "") {
		return errUsage
	}
	data, err := hex.DecodeString(strings.NewReplacer(" ", "", ":", "").Replace(*digits))
	if *in != "" {
		data, err = os.ReadFile(*in)
	}
	if err != nil {
		return err
	}
	f, err := os.OpenFile(args[0], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	x, err := libxlfmt.Open(f, &libxlfmt.Options{Profile: libxlfmt.Lenient})
	if err != nil {
		return err
	}
	i, err := findRecord(x, *record)
	if err != nil {
		return err
	}
	off := *at
	if *entry != "" {
		base, size, err := findEntry(x, i, *entry)
		if err != nil {
			return err
		}
		if off < 0 || off > size || int64(len(data)) > size-off {
			return fmt.Errorf("%d bytes at %d do not fit into entry %s of %d", len(data), off, *entry, size)
		}
		off += base
	}
	return p.apply(x, f, i, data, off, *dry)
}

// apply prints the change and makes it.
func (p *program) apply(x *libxlfmt.Index, f *os.File, i int, data []byte, off int64, dry bool) error {
	rec := x.Record(i)
	old := make([]byte, len(data))
	if off < 0 || off > rec.Length || int64(len(data)) > rec.Length-off {
		return fmt.Errorf("%d bytes at %d do not fit into %v of %d", len(data), off, rec.Type, rec.Length)
	}
	if _, err := x.Body(i).ReadAt(old, off); err != nil {
		return err
	}
	fmt.Fprintf(p.out, "record %d, %v, at %#x:\n- %x\n+ %x\n", i, rec.Type, rec.BodyOffset()+off, old, data)
	if dry {
		return nil
	}
	if err := x.Patch(f, i, data, off); err != nil {
		return err
	}
	return f.Sync()
}

// findRecord returns the record of a number or a name.
func findRecord(x *libxlfmt.Index, name string) (int, error) {
	if n, err := strconv.Atoi(name); err == nil {
		if n < 0 || n >= x.Len() {
			return 0, fmt.Errorf("no record %d: there are %d", n, x.Len())
		}
		return n, nil
	}
	found, count := 0, 0
	for i, rec := range x.Records() {
		if strings.EqualFold(rec.Type.String(), name) {
			found = i
			count++
		}
	}
	if count != 1 {
		return 0, fmt.Errorf("%d records of type %s", count, name)
	}
	return found, nil
}

// findEntry returns where an entry of HVM_CONTEXT lies in the body, and its
// length.
func findEntry(x *libxlfmt.Index, i int, name string) (off, size int64, err error) {
	body, err := x.Decode(i)
	if err != nil {
		return 0, 0, err
	}
	h, ok := body.(libxlfmt.HVMContext)
	if !ok {
		return 0, 0, fmt.Errorf("record %d is %v: it has no entries", i, x.Record(i).Type)
	}
	kind, instance, _ := strings.Cut(name, ".")
	if instance == "" {
		instance = "0"
	}
	for e, err := range h.Entries() {
		if err != nil {
			return 0, 0, err
		}
		if (strings.EqualFold(e.Name(), kind) || strconv.Itoa(int(e.TypeCode)) == kind) && strconv.Itoa(int(e.Instance)) == instance {
			return int64(e.Offset), int64(len(e.Data)), nil
		}
	}
	return 0, 0, fmt.Errorf("no entry %s", name)
}
