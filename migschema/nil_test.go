package migschema_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/migschema"
)

// TestNil: nil for what is read or written is an error, and no panic.
func TestNil(t *testing.T) {
	mig := noneMig(t)
	var ber bytes.Buffer
	if _, err := migschema.ToBER(&ber, bytes.NewReader(mig), nil); err != nil {
		t.Fatal(err)
	}
	first := func(next func() error) error {
		err := next()
		if again := next(); !errors.Is(again, block.ErrNil) {
			t.Errorf("the error does not stay: %v", again)
		}
		return err
	}
	page := &migschema.Page{Block: "a", Kind: migschema.PageFull, Data: make([]byte, 4096)}
	for name, call := range map[string]func() error{
		"NewDecoder": func() error {
			d := migschema.NewDecoder(nil, nil)
			return first(func() error { _, err := d.Next(); return err })
		},
		"NewScanner": func() error {
			d := migschema.NewScanner(nil, nil)
			return first(func() error { _, err := d.Next(); return err })
		},
		"NewReader": func() error {
			d := migschema.NewReader(nil, nil)
			return first(func() error { _, err := d.Next(); return err })
		},
		"NewReader, no reading ahead": func() error {
			d := migschema.NewReader(nil, &migschema.ReaderOptions{NoReadAhead: true, VMDesc: &migschema.VMDesc{}})
			return first(func() error { _, err := d.Next(); return err })
		},
		"Dump": func() error {
			for _, err := range migschema.Dump(nil, nil) {
				if err != nil {
					return err
				}
			}
			return nil
		},
		"ReadStats":  func() error { _, err := migschema.ReadStats(nil, nil); return err },
		"ReadVMDesc": func() error { _, err := migschema.ReadVMDesc(nil, nil); return err },
		"ToBER from": func() error { _, err := migschema.ToBER(io.Discard, nil, nil); return err },
		"ToClassic from": func() error {
			_, err := migschema.ToClassic(io.Discard, nil, &migschema.ConvertOptions{Lossy: true})
			return err
		},
		"ToBER to": func() error { _, err := migschema.ToBER(nil, bytes.NewReader(mig), nil); return err },
		"DER to": func() error {
			_, err := migschema.ToBER(nil, bytes.NewReader(mig), &migschema.ConvertOptions{Form: migschema.DER})
			return err
		},
		"ToClassic to": func() error {
			_, err := migschema.ToClassic(nil, bytes.NewReader(ber.Bytes()), nil)
			return err
		},
		"NewEncoder": func() error { return migschema.NewEncoder(nil, nil).Close() },
		"NewWriter": func() error {
			w := migschema.NewWriter(nil, nil)
			w.Write(&migschema.Record{Kind: migschema.RecordEOF})
			return w.Close()
		},
		"ReadRAM from": func() error { _, err := migschema.ReadRAM(nil, nil, nil, nil); return err },
		"NewRAM": func() error {
			m := migschema.NewRAM(nil, nil)
			if err := m.SetBlocks([]migschema.RAMBlock{{Name: "a", Len: 8192}}); err != nil {
				t.Fatal(err)
			}
			if err := m.Apply(page); err != nil {
				return err
			}
			return m.Flush()
		},
	} {
		if err := call(); !errors.Is(err, block.ErrNil) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestNoProgressOfEither: a reader that gives nothing ends what looks for the
// format of its stream.
func TestNoProgressOfEither(t *testing.T) {
	for n := range 5 {
		src := io.MultiReader(bytes.NewReader(noneMig(t)[:n]), emptyReader{})
		if _, err := migschema.ReadStats(src, nil); !errors.Is(err, io.ErrNoProgress) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}
