package migschema_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/qtest"
	"github.com/virtfmt/virtfmt/migschema"
)

// wholeReaders are the functions that read a stream as a whole.
var wholeReaders = map[string]func(b []byte) error{
	"ToBER": func(b []byte) error { _, err := migschema.ToBER(io.Discard, bytes.NewReader(b), nil); return err },
	"Lossy": func(b []byte) error {
		_, err := migschema.ToBER(io.Discard, bytes.NewReader(b), &migschema.ConvertOptions{Lossy: true})
		return err
	},
	"ReadRAM":    func(b []byte) error { _, err := migschema.ReadRAM(nowhere{}, bytes.NewReader(b), nil, nil); return err },
	"ReadStats":  func(b []byte) error { _, err := migschema.ReadStats(bytes.NewReader(b), nil); return err },
	"ReadVMDesc": func(b []byte) error { _, err := migschema.ReadVMDesc(bytes.NewReader(b), nil); return err },
	"Dump":       func(b []byte) error { _, err := dumped(bytes.NewReader(b), nil); return err },
	"Reader":     func(b []byte) error { _, err := records(migschema.NewReaderBytes(b, nil)); return err },
}

// TestUnsupported reads what this package does not read: each function says
// so, rather than give a part for the whole.
func TestUnsupported(t *testing.T) {
	channel := append([]byte("\x11\x22\x33\x44\x00\x00\x00\x01"), make([]byte, 200)...)
	mapped := newClassic().config("pc").raw(5).str("configuration/capabilities").be32(1, 1).str("mapped-ram").raw(0).Bytes()
	flush := ramHead(true).footer(2).part(3, 2).be64(0x200).be64(0x10).footer(2).raw(0).Bytes()
	for name, read := range wholeReaders {
		if err := read(channel); !errors.Is(err, errors.ErrUnsupported) || !errors.Is(err, migschema.ErrFormat) {
			t.Errorf("%s, a multifd channel: %v", name, err)
		}
		if err := read(mapped); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s, mapped RAM: %v", name, err)
		}
		want := error(nil)
		switch name {
		case "ReadRAM":
			want = errors.ErrUnsupported
		case "ToBER":
			want = migschema.CodeLossy
		}
		if err := read(flush); !errors.Is(err, want) {
			t.Errorf("%s, RAM in other channels: %v, want %v", name, err, want)
		}
	}
}

// postcopy is a stream as QEMU 7.2 sends it where postcopy takes over: pages
// that are stale are discarded (command 6), the devices come in a package (7)
// between orders to listen (4) and to run (5), then the pages that are left.
func postcopy() []byte {
	page := bytes.Repeat([]byte{0xa5}, 4096)
	devices := newClassic()
	devices.Reset()
	devices.raw(8).be16(4, 0)
	devices.open(4, 3, "dev", 0, 1).raw(1, 2, 3).footer(3)
	devices.open(4, 4, "dev", 1, 1).raw(4, 5).footer(4)
	devices.raw(8).be16(2, 4).be32(3).raw(8).be16(5, 0)
	c := newClassic().config("pc").raw(8).be16(1, 0).raw(8).be16(3, 16).be64(4096, 4096)
	c.open(1, 2, "ram", 0, 4).be64(0x3000 | 4).str("pc.ram").be64(0x3000).be64(0x10).footer(2)
	c.part(2, 2).be64(0x0000 | 8).str("pc.ram").raw(make([]byte, 4096)...).be64(0x1000 | 0x22).raw(0).be64(0x10).footer(2)
	c.raw(8).be16(6, 25).raw(0).str("pc.ram").raw(0).be64(0, 4096)
	c.raw(8).be16(7, 4).be32(uint32(devices.Len())).raw(devices.Bytes()...)
	c.part(2, 2).be64(0x0000 | 0x28).raw(page...).be64(0x2000 | 0x28).raw(page...).be64(0x10).footer(2)
	return c.part(3, 2).be64(0x10).footer(2).raw(0).Bytes()
}

// TestPostcopy reads, converts and takes the RAM out of such a stream.
func TestPostcopy(t *testing.T) {
	b := postcopy()
	checkRewrite(t, b, nil)
	if l, _ := devices(t, b, nil); len(l) != 2 || l[0] != "dev:3" || l[1] != "dev:2" {
		t.Errorf("devices %v", l)
	}
	if _, back, _, err := roundTrip(b, nil); err != nil || !bytes.Equal(back, b) {
		t.Errorf("converted and back: %v, or other octets", err)
	}
	page := bytes.Repeat([]byte{0xa5}, 4096)
	if got, want := image(t, b), slices.Concat(page, make([]byte, 4096), page); !bytes.Equal(got, want) {
		t.Error("the RAM differs")
	}
}

// TestQEMUMultifd records all connections of a migration with multifd: the
// first is a stream without the pages that the others carry.
func TestQEMUMultifd(t *testing.T) {
	bin := difftest.Tool(t, "qemu-system-x86_64", "7.2")
	path := filepath.Join(difftest.SocketDir(t), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const channels = 2
	var got [1 + channels][]byte
	var all sync.WaitGroup
	all.Go(func() {
		for i := range got {
			c, err := l.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			all.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(5 * time.Minute))
				if got[i], err = io.ReadAll(c); err != nil {
					t.Error(err)
				}
			})
		}
	})
	vm := qtest.Start(t, bin, "-M", "pc", "-m", "16")
	qmp(t, vm, "migrate-set-capabilities", map[string]any{"capabilities": []map[string]any{{"capability": "multifd", "state": true}}})
	qmp(t, vm, "migrate-set-parameters", map[string]any{"multifd-channels": channels})
	qmp(t, vm, "migrate", map[string]any{"uri": "unix:" + path})
	until(t, "the end of the migration", func() bool { return progress(t, vm).Status == "completed" })
	all.Wait()
	main := 0
	for i, b := range got {
		if migschema.Detect(b) == migschema.Classic {
			main++
			ram, err := migschema.ReadRAM(nowhere{}, bytes.NewReader(b), nil, nil)
			if err != nil {
				t.Errorf("connection %d: %v", i, err)
				continue
			}
			var unsent, data int64
			for _, r := range ram.Blocks() {
				n, _ := ram.Sent(r.Block.Name)
				data += n
				for e := range ram.Extents(r.Block.Name) {
					if e.Kind == migschema.Unallocated {
						unsent += e.Length
					}
				}
			}
			if data != 0 || unsent == 0 {
				t.Errorf("connection %d: %d pages with data, %d bytes not sent", i, data, unsent)
			}
			continue
		}
		for name, read := range wholeReaders {
			if err := read(b); !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("connection %d of %d bytes: %s: %v", i, len(b), name, err)
			}
		}
	}
	if main != 1 {
		t.Errorf("%d streams among the connections", main)
	}
}
