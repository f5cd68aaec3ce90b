package migschema_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/migschema"
)

// TestRAMModel applies random pages of all kinds, and compares the image and
// what is told of it with a plain copy.
func TestRAMModel(t *testing.T) {
	r := rand.New(rand.NewPCG(difftest.Seed(t, 3), 0))
	for range difftest.Scale(t, 60) {
		const pages = 64
		blocks := []migschema.RAMBlock{{Name: "a", Len: pages * 4096}, {Name: "b", Len: 4096}, {Name: "c", Len: 2 * pages * 4096}}
		model := map[string][]byte{}
		kind := map[string][]migschema.Extent{} // kinds alone, a page each
		var size int64
		for _, b := range blocks {
			model[b.Name] = make([]byte, b.Len)
			kind[b.Name] = make([]migschema.Extent, b.Len/4096)
			size += int64(b.Len)
		}
		f := memfile.New()
		m := migschema.NewRAM(f, &migschema.RAMOptions{Sparse: r.IntN(2) == 0})
		if err := m.SetBlocks(blocks); err != nil {
			t.Fatal(err)
		}
		for range r.IntN(400) {
			b := blocks[r.IntN(len(blocks))]
			n := r.IntN(int(b.Len / 4096))
			page := model[b.Name][n*4096:][:4096]
			next := make([]byte, 4096)
			if r.IntN(2) == 0 {
				copy(next, page)
				next[r.IntN(4096)]++
			} else {
				for i := range next {
					next[i] = byte(r.IntN(3))
				}
			}
			p := migschema.Page{Block: b.Name, Addr: uint64(n) * 4096, Kind: migschema.PageKind(r.IntN(5))}
			sent := &kind[b.Name][n]
			switch p.Kind {
			case migschema.PageZero:
				p.Fill = byte(r.IntN(2))
				next = bytes.Repeat([]byte{p.Fill}, 4096)
			case migschema.PageFull:
				p.Data = next
			case migschema.PageXBZRLE:
				delta, ok := migschema.AppendXBZRLE(nil, page, next)
				if !ok {
					continue
				}
				p.Data = delta
				if sent.Kind == migschema.Unallocated {
					if err := m.Apply(&p); !errors.Is(err, migschema.CodeOrder) {
						t.Fatalf("a difference to nothing: %v", err)
					}
					continue
				}
			case migschema.PageCompressed:
				p.Data = deflated(next)
			default:
				next = page
			}
			if err := m.Apply(&p); err != nil {
				t.Fatal(err)
			}
			copy(page, next)
			if p.Kind <= migschema.PageCompressed {
				sent.Kind = migschema.Data
				if p.Kind == migschema.PageZero && p.Fill == 0 {
					sent.Kind = migschema.Zero
				}
			}
		}
		if err := m.Flush(); err != nil {
			t.Fatal(err)
		}
		image := make([]byte, size)
		f.ReadAt(image, 0)
		for _, rng := range m.Blocks() {
			name := rng.Block.Name
			if !bytes.Equal(image[rng.Offset:][:rng.Block.Len], model[name]) {
				t.Fatalf("block %s differs", name)
			}
			var want, got []migschema.Extent
			for i, e := range kind[name] {
				e.Start, e.Length, e.HostOffset = int64(i)*4096, 4096, rng.Offset+int64(i)*4096
				if n := len(want); n > 0 && want[n-1].Kind == e.Kind {
					want[n-1].Length += 4096
				} else {
					want = append(want, e)
				}
			}
			var data, zero int64
			for e := range m.Extents(name) {
				got = append(got, e)
				switch e.Kind {
				case migschema.Data:
					data += e.Length / 4096
				case migschema.Zero:
					zero += e.Length / 4096
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("extents of %s: %s", name, diff)
			}
			if d, z := m.Sent(name); d != data || z != zero {
				t.Fatalf("%s: %d and %d pages, extents have %d and %d", name, d, z, data, zero)
			}
		}
	}
}

func TestRAMPlacement(t *testing.T) {
	var m memory
	place := func(b migschema.RAMBlock) (int64, bool) { return 8192, b.Name == "b" }
	ram, err := migschema.ReadRAM(&m, bytes.NewReader(twoBlocks()), nil, &migschema.RAMOptions{Place: place})
	if err != nil {
		t.Fatal(err)
	}
	if len(m) != 12288 || m[8192] != 0xbb {
		t.Errorf("%d bytes, %x", len(m), m[8192:8193])
	}
	if got := ram.Blocks(); got[0].Offset != -1 || got[1].Offset != 8192 {
		t.Errorf("%+v", got)
	}
}

// twoBlocks is a stream with pages of 0xaa and 0xbb in two blocks.
func twoBlocks() []byte {
	c := ramHead(true).footer(2).part(3, 2)
	c.be64(8).str("a").raw(bytes.Repeat([]byte{0xaa}, 4096)...)
	c.be64(8).str("b").raw(bytes.Repeat([]byte{0xbb}, 4096)...)
	return c.be64(0x10).footer(2).raw(0).Bytes()
}

type writerOnly struct{ io.WriterAt }

func TestRAMErrors(t *testing.T) {
	type P = migschema.Page
	page := make([]byte, 4096)
	for name, c := range map[string]struct {
		page P
		want error
	}{
		"unknown block":  {P{Block: "x"}, migschema.CodeUnknownID},
		"unaligned":      {P{Block: "a", Addr: 1}, migschema.CodePageRange},
		"past the block": {P{Block: "a", Addr: 8192}, migschema.CodePageRange},
		"past all":       {P{Block: "a", Addr: 1<<64 - 4096}, migschema.CodePageRange},
		"short":          {P{Block: "a", Kind: migschema.PageFull, Data: page[1:]}, migschema.CodeSize},
		"not zlib":       {P{Block: "a", Kind: migschema.PageCompressed, Data: page}, migschema.CodeCompressed},
		"bad checksum":   {P{Block: "a", Kind: migschema.PageCompressed, Data: append(deflated(page), 0)}, migschema.CodeCompressed},
		"other channels": {P{Kind: migschema.PageFlush}, errors.ErrUnsupported},
		"short zlib":     {P{Block: "a", Kind: migschema.PageCompressed, Data: deflated(page[1:])}, migschema.CodeCompressed},
	} {
		m := migschema.NewRAM(new(memory), nil)
		if err := m.SetBlocks([]migschema.RAMBlock{{Name: "a", Len: 8192}}); err != nil {
			t.Fatal(err)
		}
		if err := m.Apply(&c.page); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	m := migschema.NewRAM(writerOnly{new(memory)}, nil)
	m.SetBlocks([]migschema.RAMBlock{{Name: "a", Len: 8192}})
	if err := m.Apply(&P{Block: "a", Kind: migschema.PageFull, Data: page}); err != nil {
		t.Error(err)
	}
	if err := m.Apply(&P{Block: "a", Kind: migschema.PageXBZRLE, Data: []byte{0, 1, 2}}); err == nil {
		t.Error("a difference without reading back")
	}
	if err := m.SetBlocks([]migschema.RAMBlock{{Name: "a", Len: 1 << 63}}); err == nil {
		t.Error("a block of 2^63 bytes")
	}
	f := memfile.New()
	f.Fault = func(memfile.Op) error { return io.ErrClosedPipe }
	if _, err := migschema.ReadRAM(f, bytes.NewReader(twoBlocks()), nil, nil); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("an image that cannot be written: %v", err)
	}
	if _, err := migschema.ReadRAM(f, bytes.NewReader([]byte("nonsense")), nil, nil); !errors.Is(err, migschema.ErrFormat) {
		t.Errorf("nonsense: %v", err)
	}
}

func TestStats(t *testing.T) {
	check := func(b []byte, format migschema.Format) {
		t.Helper()
		s, err := migschema.ReadStats(bytes.NewReader(b), nil)
		if err != nil {
			t.Fatal(err)
		}
		if s.Format != format || s.Octets != int64(len(b)) || s.RAMParts != 2 || s.Commands != 2 {
			t.Errorf("%+v", s)
		}
		if a := s.Blocks[0]; a.Name != "pc.ram" || a.Zero != 3 || a.Full != 2 || a.XBZRLE != 1 || a.Distinct != 4 || a.Pages() != 6 || a.Octets != 8195 {
			t.Errorf("%+v", a)
		}
		if len(s.Devices) != 2 || s.Devices[1].Name != "dev" || s.Devices[1].Instance != 1 || s.Devices[0].Octets == 0 || s.VMDesc == 0 {
			t.Errorf("%+v", s.Devices)
		}
	}
	b := convertible(t)
	check(b, migschema.Classic)
	for _, form := range convertForms {
		var ber bytes.Buffer
		if _, err := migschema.ToBER(&ber, bytes.NewReader(b), &migschema.ConvertOptions{Form: form, Typed: true}); err != nil {
			t.Fatal(err)
		}
		check(ber.Bytes(), migschema.BER)
	}
	if s, err := migschema.ReadStats(bytes.NewReader(b[:9000]), nil); err == nil || s.Blocks[0].Full == 0 {
		t.Errorf("of a cut stream: %+v, %v", s, err)
	}
}
