package vma_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/golden"
	"github.com/virtfmt/virtfmt/vma"
)

// readBack tests that an archive is whole under every profile, without a note,
// and holds the disks.
func readBack(t *testing.T, b []byte, disks []ram) {
	t.Helper()
	for _, p := range []vma.Profile{vma.Proxmox, vma.Strict, vma.Salvage} {
		if r := verify(t, b, &vma.Options{Profile: p}); !r.OK() {
			t.Errorf("%v: %v", p, errorsOf(r))
		}
	}
	a, err := vma.Open(bytes.NewReader(b), nil)
	if err != nil {
		t.Fatal(err)
	}
	_, stream := readStream(t, bytes.NewReader(b), nil)
	for i, d := range a.Devices() {
		got := make([]byte, d.Size())
		if _, err := d.ReadAt(got, 0); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, disks[i]) || !bytes.Equal(stream[d.Info().ID], disks[i]) {
			t.Errorf("device %s reads back differently", d.Name())
		}
		checkExtents(t, d, b, got)
	}
}

func TestWriteRead(t *testing.T) {
	disks := []ram{content(1, 5<<20+66048, 0.6), content(2, 540672, 0.3), content(3, 512, 1), content(4, 1<<20+1536, 0.5)}
	b := build(t, true, disks...)
	readBack(t, b, disks)
	if r := verify(t, b, &vma.Options{Profile: vma.Strict}); len(r.Findings) > 0 {
		t.Errorf("findings in what was written: %v", r.Findings)
	}
}

// TestDeterministic tests that the bytes do not depend on the number of
// workers, on what the source knows of its zeros, or on the call.
func TestDeterministic(t *testing.T) {
	disks := []ram{content(1, 9<<20+8192, 0.6), content(2, 3<<20, 0.1)}
	want := build(t, false, disks...)
	h := testHeader(vma.DeviceInfo{Name: "disk0", Size: disks[0].Size()}, vma.DeviceInfo{Name: "disk1", Size: disks[1].Size()})
	for name, write := range map[string]func(w *vma.Writer, id uint8, d ram) error{
		"1 worker": func(w *vma.Writer, id uint8, d ram) error {
			return w.CopyFrom(t.Context(), id, d, &vma.CopyOptions{Workers: 1})
		},
		"5 workers": func(w *vma.Writer, id uint8, d ram) error {
			return w.CopyFrom(t.Context(), id, opaque{d}, &vma.CopyOptions{Workers: 5})
		},
		"stream": func(w *vma.Writer, id uint8, d ram) error {
			return w.ReadFrom(t.Context(), id, bytes.NewReader(d), nil)
		},
		"clusters": func(w *vma.Writer, id uint8, d ram) error {
			for off := 0; off < len(d); off += vma.ClusterSize {
				if err := w.WriteCluster(id, uint32(off/vma.ClusterSize), d[off:min(off+vma.ClusterSize, len(d))]); err != nil {
					return err
				}
			}
			return nil
		},
	} {
		var b bytes.Buffer
		w, err := vma.NewWriter(&b, h, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i, d := range disks {
			if err := write(w, uint8(i+1), d); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b.Bytes(), want) {
			t.Errorf("%s: other bytes", name)
		}
	}
}

// TestWriteAnyOrder writes clusters as a backup of a running machine does.
func TestWriteAnyOrder(t *testing.T) {
	seed := difftest.Seed(t, 7)
	for i := range difftest.Scale(t, 30) {
		rnd := rand.New(rand.NewPCG(seed, uint64(i)))
		disks := []ram{
			content(rnd.Uint64(), 512*(1+rnd.IntN(6<<11)), 0.5),
			content(rnd.Uint64(), 512*(1+rnd.IntN(2<<11)), 0.9),
			content(rnd.Uint64(), 512*(1+rnd.IntN(1<<11)), 0.5),
		}
		readBack(t, writeShuffled(t, rnd, disks), disks)
	}
}

// writeShuffled writes disks, the last one vmstate, in any order: early
// clusters one by one, ranges of zeros, the rest by CopyFrom.
func writeShuffled(t testing.TB, rnd *rand.Rand, disks []ram) []byte {
	t.Helper()
	h := testHeader()
	type place struct {
		dev uint8
		num int
	}
	var places []place
	for i, d := range disks {
		name := fmt.Sprintf("disk%d", i)
		if i == len(disks)-1 {
			name = vma.VMStateName
		}
		h.Devices = append(h.Devices, vma.DeviceInfo{ID: uint8(10 + i), Name: name, Size: d.Size()})
		for n := range (len(d) + vma.ClusterSize - 1) / vma.ClusterSize {
			places = append(places, place{uint8(10 + i), n})
		}
	}
	var b bytes.Buffer
	w, err := vma.NewWriter(&b, h, nil)
	if err != nil {
		t.Fatal(err)
	}
	rnd.Shuffle(len(places), func(i, j int) { places[i], places[j] = places[j], places[i] })
	last := -1
	for _, p := range places[:rnd.IntN(len(places)+1)] {
		d := disks[p.dev-10]
		vm := int(p.dev)-10 == len(disks)-1
		if vm {
			// Only in ascending order, and what is skipped is zeros.
			if p.num <= last || !isZero(d[(last+1)*vma.ClusterSize:p.num*vma.ClusterSize]) {
				continue
			}
			last = p.num
		}
		off := p.num * vma.ClusterSize
		data := d[off:min(off+vma.ClusterSize, len(d))]
		if isZero(data) && rnd.IntN(2) == 0 {
			err = w.WriteZeroes(p.dev, int64(off), int64(len(data)))
		} else {
			err = w.WriteCluster(p.dev, uint32(p.num), data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for i, d := range disks {
		if err := w.CopyFrom(t.Context(), uint8(10+i), d, &vma.CopyOptions{Workers: 1 + rnd.IntN(3)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func isZero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// TestWriteConcurrent writes from several goroutines at once.
func TestWriteConcurrent(t *testing.T) {
	disks := []ram{content(1, 9<<20, 0.4), content(2, 3<<20, 0.5)}
	var b bytes.Buffer
	w, err := vma.NewWriter(&b, testHeader(vma.DeviceInfo{Name: "a", Size: disks[0].Size()}, vma.DeviceInfo{Name: "b", Size: disks[1].Size()}), nil)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for g := range 3 {
		wg.Go(func() {
			for n := g; n < 48; n += 3 {
				if err := w.WriteCluster(2, uint32(n), disks[1][n<<16:(n+1)<<16]); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Go(func() {
		if err := w.CopyFrom(t.Context(), 1, disks[0], nil); err != nil {
			t.Error(err)
		}
	})
	wg.Wait()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	readBack(t, b.Bytes(), disks)
}

// TestCopyReadError copies a disk that cannot be read at its end, which
// becomes zeros where the caller says so.
func TestCopyReadError(t *testing.T) {
	disk := content(1, 2<<20, 0.8)
	var b bytes.Buffer
	w, err := vma.NewWriter(&b, testHeader(vma.DeviceInfo{Name: "a", Size: disk.Size()}), nil)
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan int64, 1000)
	err = w.CopyFrom(t.Context(), 1, broken{disk}, &vma.CopyOptions{ReadError: func(off, n int64, err error) error {
		asked <- n
		if !errors.Is(err, errFull) {
			return err
		}
		return nil
	}})
	if err != nil || len(asked) == 0 {
		t.Fatalf("%v after %d questions", err, len(asked))
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	clear(disk[len(disk)/2:])
	readBack(t, b.Bytes(), []ram{disk})
}

func TestIncomplete(t *testing.T) {
	h := testHeader(vma.DeviceInfo{Name: "a", Size: 10 << 16}, vma.DeviceInfo{Name: "b", Size: 5<<16 + 512})
	write := func(o *vma.WriterOptions) (*bytes.Buffer, error) {
		var b bytes.Buffer
		w, err := vma.NewWriter(&b, h, o)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range []uint32{2, 3, 9} {
			if err := w.WriteCluster(1, n, content(uint64(n), 1<<16, 1)); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.WriteZeroes(2, 0, 5<<16); err != nil {
			t.Fatal(err)
		}
		return &b, w.Close()
	}
	b, err := write(nil)
	var missing *vma.IncompleteError
	if !errors.Is(err, vma.ErrIncomplete) || !errors.As(err, &missing) {
		t.Fatalf("Close: %v", err)
	}
	want := &vma.IncompleteError{Clusters: 8, Ranges: []vma.MissingRange{
		{Device: 1, Name: "a", Start: 0, Length: 2 << 16},
		{Device: 1, Name: "a", Start: 4 << 16, Length: 5 << 16},
		{Device: 2, Name: "b", Start: 5 << 16, Length: 512},
	}}
	if diff := cmp.Diff(want, missing); diff != "" {
		t.Error(diff)
	}
	if want := "vma: 8 clusters are missing: 131072 bytes at 0 of a and more"; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
	refused(t, b.Bytes())
	b, err = write(&vma.WriterOptions{FillMissing: true})
	if err != nil {
		t.Fatal(err)
	}
	disk := make(ram, 10<<16)
	for _, n := range []uint32{2, 3, 9} {
		copy(disk[n<<16:], content(uint64(n), 1<<16, 1))
	}
	readBack(t, b.Bytes(), []ram{disk, make(ram, 5<<16+512)})
}

// refused tests that nobody takes b for a whole archive, not even a reader
// that does not look for missing clusters.
func refused(t *testing.T, b []byte) {
	t.Helper()
	for _, p := range []vma.Profile{vma.Proxmox, vma.Strict} {
		r := verify(t, b, &vma.Options{Profile: p})
		if len(errorsOf(r, vma.CodeMissing, vma.CodeVMStateMissing)) == 0 {
			t.Fatalf("%v: %d bytes of a broken archive pass but for clusters that are missing", p, len(b))
		}
	}
}

// A limited writer fails after n bytes.
type limited struct {
	bytes.Buffer
	n int
}

var errFull = errors.New("full")

func (l *limited) Write(b []byte) (int, error) {
	if len(b) <= l.n {
		l.n -= len(b)
		return l.Buffer.Write(b)
	}
	n, _ := l.Buffer.Write(b[:l.n])
	l.n = 0
	return n, errFull
}

// TestNothingAfterError tests that a Writer that failed writes nothing more,
// and that what it wrote is refused, whatever failed.
func TestNothingAfterError(t *testing.T) {
	disk := content(1, 130<<16, 0.1)
	for name, fail := range map[string]func(w *vma.Writer) error{
		"unknown device": func(w *vma.Writer) error { return w.WriteCluster(9, 0, disk[:1<<16]) },
		"twice":          func(w *vma.Writer) error { return w.WriteCluster(1, 0, disk[:1<<16]) },
		"short":          func(w *vma.Writer) error { return w.WriteCluster(1, 129, disk[:100]) },
		"past the end":   func(w *vma.Writer) error { return w.WriteCluster(1, 130, nil) },
		"odd zeros":      func(w *vma.Writer) error { return w.WriteZeroes(1, 100, 1<<16) },
		"zeros past":     func(w *vma.Writer) error { return w.WriteZeroes(1, 129<<16, 2<<16) },
		"zeros overflow": func(w *vma.Writer) error { return w.WriteZeroes(1, 1<<16, 1<<63-1) },
		"vmstate back":   func(w *vma.Writer) error { return w.WriteCluster(2, 0, disk[:1<<16]) },
		"source size":    func(w *vma.Writer) error { return w.CopyFrom(t.Context(), 1, disk[:512], nil) },
		"source error":   func(w *vma.Writer) error { return w.CopyFrom(t.Context(), 1, broken{disk}, nil) },
		"stream short":   func(w *vma.Writer) error { return w.ReadFrom(t.Context(), 1, bytes.NewReader(disk[:99999]), nil) },
		"canceled": func(w *vma.Writer) error {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			return w.CopyFrom(ctx, 1, disk, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			w, err := vma.NewWriter(&b, testHeader(
				vma.DeviceInfo{Name: "a", Size: disk.Size()}, vma.DeviceInfo{Name: vma.VMStateName, Size: 5 << 16}), nil)
			if err != nil {
				t.Fatal(err)
			}
			for n := range uint32(129) {
				if err := w.WriteCluster(1, n, disk[n<<16:(n+1)<<16]); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.WriteCluster(2, 4, disk[:1<<16]); err != nil {
				t.Fatal(err)
			}
			first := fail(w)
			if first == nil {
				t.Fatal("no error")
			}
			n := b.Len()
			if err := w.WriteCluster(1, 129, disk[129<<16:]); err != first {
				t.Errorf("then: %v, want %v", err, first)
			}
			if err := w.Close(); err != first {
				t.Errorf("Close: %v, want %v", err, first)
			}
			if b.Len() != n {
				t.Errorf("%d bytes were written after the error", b.Len()-n)
			}
			refused(t, b.Bytes())
		})
	}
}

// broken is a disk that cannot be read at its end.
type broken struct{ ram }

func (b broken) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > b.Size()/2 {
		return 0, errFull
	}
	return b.ram.ReadAt(p, off)
}

// TestWriteErrors lets the writer below fail at every so many bytes.
func TestWriteErrors(t *testing.T) {
	disks := []ram{content(1, 70<<16, 0.05), content(2, 3<<16, 0.1)}
	whole := build(t, false, disks...)
	step := max(1, len(whole)/difftest.Scale(t, 400))
	for n := 0; n < len(whole); n += step {
		l := &limited{n: n}
		h := testHeader(vma.DeviceInfo{Name: "disk0", Size: disks[0].Size()}, vma.DeviceInfo{Name: "disk1", Size: disks[1].Size()})
		w, err := vma.NewWriter(l, h, nil)
		for i := 0; err == nil && i < len(disks); i++ {
			err = w.CopyFrom(t.Context(), uint8(i+1), disks[i], nil)
		}
		if err == nil {
			err = w.Close()
		}
		if !errors.Is(err, errFull) {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if !bytes.Equal(l.Bytes(), whole[:n]) {
			t.Fatalf("%d bytes: other bytes came before the error", n)
		}
	}
}

// TestHeldBack looks at the archive whenever something was written: before
// Close it always ends inside a structure.
func TestHeldBack(t *testing.T) {
	var b bytes.Buffer
	w, err := vma.NewWriter(&b, testHeader(vma.DeviceInfo{Name: "a", Size: 200 << 16}), nil)
	if err != nil {
		t.Fatal(err)
	}
	last := -1
	for n := range uint32(200) {
		if b.Len() != last {
			last = b.Len()
			refused(t, b.Bytes())
		}
		if err := w.WriteCluster(1, n, make([]byte, 1<<16)); err != nil {
			t.Fatal(err)
		}
	}
	refused(t, b.Bytes())
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	readBack(t, b.Bytes(), []ram{make(ram, 200<<16)})
	if err := w.Close(); err != nil {
		t.Errorf("Close again: %v", err)
	}
	if err := w.WriteCluster(1, 0, nil); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("write after Close: %v", err)
	}
}

// writeLimits writes an archive of as many devices and configs as there can
// be.
func writeLimits(t *testing.T) ([]byte, []ram) {
	t.Helper()
	many := testHeader()
	many.Configs = nil
	var disks []ram
	for i := range vma.MaxDevices {
		d := content(uint64(i), 512*(i+1), 0.8)
		disks = append(disks, d)
		many.Devices = append(many.Devices, vma.DeviceInfo{Name: fmt.Sprintf("d%d", i), Size: d.Size()})
	}
	for i := range vma.MaxConfigs {
		many.Configs = append(many.Configs, vma.Config{Name: fmt.Sprint(i) + strings.Repeat("x", i*20), Data: make([]byte, i*17)})
	}
	var b bytes.Buffer
	w, err := vma.NewWriter(&b, many, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range disks {
		if err := w.CopyFrom(t.Context(), uint8(i+1), d, &vma.CopyOptions{Workers: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), disks
}

func TestWriterLimits(t *testing.T) {
	b, disks := writeLimits(t)
	readBack(t, b, disks)
	a, err := vma.Open(bytes.NewReader(b), nil)
	if err != nil {
		t.Fatal(err)
	}
	many := a.Header()
	again, err := many.AppendBinary(nil)
	if err != nil || !bytes.Equal(again, b[:len(again)]) {
		t.Errorf("the header is encoded differently, or %v", err)
	}

	dev := func(name string, size int64) vma.DeviceInfo { return vma.DeviceInfo{Name: name, Size: size} }
	conf := func(name string, n int) *vma.Header {
		return &vma.Header{Configs: []vma.Config{{Name: name, Data: make([]byte, n)}}}
	}
	for name, h := range map[string]*vma.Header{
		"255 devices":    {Devices: append(many.Devices[:254:254], dev("x", 512))},
		"257 configs":    {Configs: append(many.Configs[:256:256], vma.Config{Name: "x"})},
		"empty":          testHeader(dev("a", 0)),
		"negative":       testHeader(dev("a", -512)),
		"odd size":       testHeader(dev("a", 1000)),
		"too large":      testHeader(dev("a", vma.MaxDeviceSize+512)),
		"no name":        testHeader(dev("", 512)),
		"path":           testHeader(dev("../a", 512)),
		"same name":      testHeader(dev("a", 512), dev("a", 512)),
		"same ID":        testHeader(vma.DeviceInfo{ID: 1, Name: "a", Size: 512}, vma.DeviceInfo{ID: 1, Name: "b", Size: 512}),
		"ID 255":         testHeader(vma.DeviceInfo{ID: 255, Name: "a", Size: 512}),
		"config path":    conf("a/b", 1),
		"config ..":      conf("..", 1),
		"config long":    conf(strings.Repeat("x", 65535), 1),
		"config large":   conf("a", 65536),
		"config control": conf("a\n", 1),
	} {
		if _, err := vma.NewWriter(io.Discard, h, nil); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := vma.NewWriter(io.Discard, nil, nil); err == nil {
		t.Error("no error for no header")
	}
	if _, err := vma.NewWriter(io.Discard, conf(strings.Repeat("x", 65534), 65535), nil); err != nil {
		t.Errorf("the longest name and data: %v", err)
	}
}

func TestWriterDefaults(t *testing.T) {
	var b bytes.Buffer
	w, err := vma.NewWriter(&b, &vma.Header{Devices: []vma.DeviceInfo{{Name: "a", Size: 512}, {ID: 1, Name: "b", Size: 512}}}, &vma.WriterOptions{FillMissing: true})
	if err != nil {
		t.Fatal(err)
	}
	h := w.Header()
	if h.UUID == [16]byte{} || h.UUID[6]>>4 != 4 || h.CTime == 0 {
		t.Errorf("uuid %x, ctime %d", h.UUID, h.CTime)
	}
	if want := []vma.DeviceInfo{{ID: 1, Name: "b", Size: 512}, {ID: 2, Name: "a", Size: 512}}; cmp.Diff(want, h.Devices) != "" {
		t.Errorf("devices %v", h.Devices)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	readBack(t, b.Bytes(), []ram{make(ram, 512), make(ram, 512)})
}

// TestGolden pins the bytes of a small archive.
func TestGolden(t *testing.T) {
	var b bytes.Buffer
	h := testHeader(vma.DeviceInfo{Name: "drive-scsi0", Size: 1 << 17}, vma.DeviceInfo{Name: vma.VMStateName, Size: 1024})
	w, err := vma.NewWriter(&b, h, nil)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 1<<16)
	data[3*4096], data[9*4096+4095] = 1, 2
	if err := errors.Join(w.WriteCluster(1, 1, data), w.WriteZeroes(1, 0, 1<<16), w.WriteZeroes(2, 0, 1024), w.Close()); err != nil {
		t.Fatal(err)
	}
	golden.Hex(t, "written.txt", b.Bytes())
	b.Reset()
	w, err = vma.NewWriter(&b, testHeader(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	golden.Hex(t, "written-config-only.txt", b.Bytes())
}
