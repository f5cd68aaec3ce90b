package qed_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qed"
)

func FuzzHeader(f *testing.F) {
	f.Add(image(f, nil)[:512])
	f.Add(image(f, &qed.CreateOptions{BackingFile: "base", BackingFormat: "raw", ClusterSize: 4096})[:512])
	f.Fuzz(func(t *testing.T, b []byte) {
		var h, again qed.Header
		if h.UnmarshalBinary(b) != nil {
			return
		}
		enc, err := h.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		if h.BackingNameOffset > 1<<20 {
			return // without a name any offset is allowed
		}
		file := make([]byte, max(len(enc), int(h.BackingNameOffset)+len(h.BackingFile)))
		copy(file, enc)
		copy(file[h.BackingNameOffset:], h.BackingFile)
		if h.BackingFile != "" && h.BackingNameOffset < uint32(len(enc)) {
			return // the name lies within the fixed fields
		}
		if err := again.UnmarshalBinary(file); err != nil || again != h {
			t.Errorf("%+v became %+v, %v", h, again, err)
		}
	})
}

// FuzzImage opens, checks, reads, repairs and writes an image of anything.
func FuzzImage(f *testing.F) {
	small := func(o *qed.CreateOptions) []byte {
		m := memfile.New()
		o.ClusterSize, o.TableSize = 4096, 2
		o.Open = &qed.Options{OpenBacking: func(string, string) (qed.Disk, error) { return bytesDisk("backing"), nil }}
		img, err := qed.Create(m, 64<<10, o)
		if err != nil {
			f.Fatal(err)
		}
		img.WriteAt(bytes.Repeat([]byte{1}, 5000), 3000)
		img.WriteZeroesAt(16384, 8192)
		if err := img.Close(); err != nil {
			f.Fatal(err)
		}
		return m.Bytes()
	}
	f.Add(small(&qed.CreateOptions{}))
	f.Add(small(&qed.CreateOptions{BackingFile: "base", BackingFormat: "raw"}))
	dirty := small(&qed.CreateOptions{})
	dirty[16] |= 2
	f.Add(dirty)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<20 {
			return
		}
		start := time.Now()
		o := &qed.Options{OpenBacking: func(string, string) (qed.Disk, error) { return bytesDisk("backing"), nil }, BackingFormat: "raw"}
		img, err := qed.Open(bytes.NewReader(b), o)
		if err != nil {
			return
		}
		if _, err := img.Check(context.Background(), nil); err != nil {
			t.Logf("check: %v", err)
		}
		p := make([]byte, 64<<10)
		for _, off := range []int64{0, img.Size() / 2, img.Size() - int64(len(p))} {
			if _, err := img.ReadAt(p, max(0, off)); err != nil && !errors.Is(err, qed.ErrCorrupt) && off >= 0 && img.Size() > off+int64(len(p)) {
				t.Logf("read: %v", err)
			}
		}
		n := 0
		for _, err := range img.Extents(0, img.Size()) {
			if n++; err != nil || n > 1000 {
				break
			}
		}
		m := memfile.FromBytes(b)
		if img, err = qed.OpenRW(m, o); err != nil {
			return
		}
		img.Check(context.Background(), &qed.CheckOptions{Repair: qed.RepairErrors})
		if _, err := img.WriteAt(p[:min(int64(len(p)), img.Size())], 0); err == nil {
			if err := img.Close(); err != nil {
				t.Errorf("close after a write: %v", err)
			}
		}
		if d := time.Since(start); d > 20*time.Second {
			t.Errorf("took %v", d)
		}
	})
}
