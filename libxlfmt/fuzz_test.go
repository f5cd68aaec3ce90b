package libxlfmt_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/libxlfmt"
)

// seeds adds every vector that is small enough for mutations to matter.
func seeds(f *testing.F) {
	for _, v := range vectors(f) {
		if len(v.data) < 10<<10 {
			f.Add(v.data)
		}
	}
	f.Add([]byte("XenSavedDomv2-\n\x0f\x00\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00data" +
		"\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Add([]byte("libvirt-xml\n \x00 \r\x02\x00\x00\x00\x04\x00\x00\x00" + string(make([]byte, 40)) + "<x/>" + libxlHeader))
}

// FuzzReader: no stream makes the reader panic, hang or take memory, however
// it is read, and every way of reading comes to the same end.
func FuzzReader(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, p := range []libxlfmt.Profile{libxlfmt.Strict, libxlfmt.Xen, libxlfmt.Lenient} {
			o := &libxlfmt.Options{Profile: p, Xenstore: libxlfmt.XenstoreForm(len(data) % 3)}
			seek := walk(bytes.NewReader(data), o, nil)
			read := walk(onlyReader{bytes.NewReader(data)}, o, func(r *libxlfmt.Reader, _ libxlfmt.Record) error {
				_, err := io.Copy(io.Discard, r)
				return err
			})
			if seek.Error() != read.Error() {
				t.Fatalf("%v: sought over: %v, read: %v", p, seek, read)
			}
			res, err := libxlfmt.Verify(t.Context(), bytes.NewReader(data), &libxlfmt.VerifyOptions{Options: *o, MaxFindings: 10})
			if err != nil {
				t.Fatal(err)
			}
			if res.OK() && seek != io.EOF {
				t.Fatalf("%v: verified, but %v", p, seek)
			}
		}
		tolerant := &libxlfmt.Options{Report: func(libxlfmt.Finding) error { return nil }}
		walk(bytes.NewReader(data), tolerant, use)
	})
}

// walk reads a stream to its end and returns how that came.
func walk(src io.Reader, o *libxlfmt.Options, use func(*libxlfmt.Reader, libxlfmt.Record) error) error {
	r, err := libxlfmt.NewReader(src, o)
	for err == nil {
		var rec libxlfmt.Record
		if rec, err = r.Next(); err == nil && use != nil {
			err = use(r, rec)
		}
	}
	return err
}

// use reads bodies as pages and decoded; their own faults do not end the
// stream.
func use(r *libxlfmt.Reader, rec libxlfmt.Record) error {
	if rec.Type == libxlfmt.TypePageData && rec.Offset%16 == 0 {
		for _, err := range r.Pages() {
			if err != nil {
				return nil
			}
		}
		return nil
	}
	body, err := r.Decode()
	if h, ok := body.(libxlfmt.HVMContext); ok {
		for range h.Entries() {
			continue
		}
	}
	var fe *libxlfmt.FormatError
	if errors.As(err, &fe) && fe.Code == libxlfmt.CodeTruncated {
		return err
	}
	return nil
}

// FuzzCopy: a stream without a fault is copied byte for byte, and into every
// container; what becomes of it has none either.
func FuzzCopy(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		faults := 0
		o := &libxlfmt.Options{Report: func(libxlfmt.Finding) error { faults++; return nil }}
		r, err := libxlfmt.NewReader(bytes.NewReader(data), o)
		for err == nil {
			_, err = r.Next()
		}
		if err != io.EOF || faults > 0 {
			return
		}
		got, dropped, err := copyStream(bytes.NewReader(data), nil, nil)
		if err != nil || len(dropped) > 0 || !bytes.Equal(got, data[:r.Offset()]) {
			t.Fatalf("copy: %v, %d of %d bytes", err, len(got), r.Offset())
		}
		for _, k := range []libxlfmt.ContainerKind{libxlfmt.ContainerNone, libxlfmt.ContainerLibxc, libxlfmt.ContainerXL,
			libxlfmt.ContainerLibvirt, libxlfmt.ContainerXenopsd} {
			got, _, err := copyStream(bytes.NewReader(data), nil, &libxlfmt.WriterOptions{
				Container: libxlfmt.Container{Kind: k}, Profile: libxlfmt.Lenient})
			if err != nil {
				continue // there may be no stream of libxc, or several
			}
			res, err := libxlfmt.Verify(t.Context(), bytes.NewReader(got), &libxlfmt.VerifyOptions{
				Options: libxlfmt.Options{Profile: libxlfmt.Lenient}})
			if err != nil || !res.OK() || res.End != r.End() {
				t.Fatalf("to %v: %v, %+v", k, err, res)
			}
		}
	})
}

// FuzzDecode: what is decoded encodes to what was decoded.
func FuzzDecode(f *testing.F) {
	for _, v := range vectors(f) {
		_ = walk(bytes.NewReader(v.data), nil, func(r *libxlfmt.Reader, rec libxlfmt.Record) error {
			b, err := io.ReadAll(r)
			if len(b) < 5000 {
				f.Add(uint64(rec.Type), rec.BigEndian, b)
			}
			return err
		})
	}
	f.Fuzz(func(t *testing.T, typ uint64, big bool, b []byte) {
		rec := libxlfmt.Record{Type: libxlfmt.Type(typ), BigEndian: big, Length: int64(len(b))}
		body, err := libxlfmt.Decode(rec, b)
		if err != nil {
			return
		}
		order := rec.Order().(binary.AppendByteOrder)
		once := body.AppendBody(nil, order)
		again, err := libxlfmt.Decode(libxlfmt.Record{Type: rec.Type, BigEndian: big, Length: int64(len(once))}, once)
		if err != nil {
			t.Fatalf("%T: %v", body, err)
		}
		if twice := again.AppendBody(nil, order); !bytes.Equal(once, twice) {
			t.Fatalf("%T: % x, then % x", body, once, twice)
		}
	})
}

// FuzzIndex: an index of any bytes, its memory, and edits of it; what an edit
// lets through opens again.
func FuzzIndex(f *testing.F) {
	for _, v := range vectors(f) {
		if len(v.data) < 10<<10 {
			f.Add(v.data, uint16(1), int64(0), []byte{1, 0, 0, 0})
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, i uint16, off int64, p []byte) {
		o := &libxlfmt.Options{Profile: libxlfmt.Lenient, Partial: i%2 == 0}
		file := memfile.FromBytes(bytes.Clone(data))
		x, err := libxlfmt.Open(file, o)
		if err != nil || x.Len() == 0 {
			return
		}
		if m, err := x.Memory(&libxlfmt.MemoryOptions{Records: x.LastCheckpoint()}); err == nil {
			var at int64
			for e, err := range m.Extents(0, m.Size()) {
				if err != nil || e.Start != at {
					t.Fatalf("extent %+v after %d: %v", e, at, err)
				}
				at = e.End()
			}
			if at != m.Size() {
				t.Fatalf("extents end at %d of %d", at, m.Size())
			}
			if _, err := m.ReadAt(make([]byte, 8192), max(0, m.Size()-8192)); err != nil && err != io.EOF {
				t.Fatal(err)
			}
		}
		n := int(i) % x.Len()
		body, err := x.Decode(n)
		if err == nil {
			if err := x.Replace(file, n, body); err != nil && !o.Partial && body.Type() != libxlfmt.TypePVInfo {
				t.Fatalf("the same body again: %v", err)
			}
		}
		if err := x.Patch(file, n, p, off); err != nil {
			return
		}
		again, err := libxlfmt.Open(file, o)
		if err != nil || again.Len() != x.Len() {
			t.Fatalf("after an edit: %v", err)
		}
	})
}
