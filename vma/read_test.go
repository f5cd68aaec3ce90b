package vma_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/vma"
)

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// readStream reads all devices of an archive through a Reader.
func readStream(t *testing.T, r io.Reader, o *vma.Options) (*vma.Reader, map[uint8][]byte) {
	t.Helper()
	rd, err := vma.NewReader(r, o)
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[uint8][]byte)
	for _, d := range rd.Header().Devices {
		got[d.ID] = make([]byte, d.Size)
	}
	whole := make([]byte, vma.ClusterSize)
	for {
		c, err := rd.Next()
		if err == io.EOF {
			return rd, got
		}
		if err != nil {
			t.Fatal(err)
		}
		disk := got[c.Device]
		for off, b := range c.Runs() {
			copy(disk[off:], b)
		}
		c.CopyTo(whole)
		if !bytes.Equal(whole[:c.Len()], disk[c.Start():c.Start()+int64(c.Len())]) {
			t.Fatalf("device %d cluster %d: CopyTo and Runs differ", c.Device, c.Number)
		}
	}
}

// checkExtents compares what Extents say with the archive and the content.
func checkExtents(t *testing.T, d *vma.Device, file, content []byte) {
	t.Helper()
	next := int64(0)
	for e, err := range d.Extents(0, d.Size()) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Start != next {
			t.Fatalf("extent at %d, want %d", e.Start, next)
		}
		next = e.End()
		got := content[e.Start:next]
		switch e.Kind {
		case vma.Data:
			if !bytes.Equal(got, file[e.HostOffset:e.HostOffset+e.Length]) {
				t.Errorf("extent %+v holds other bytes", e)
			}
		case vma.Zero:
			if len(bytes.Trim(got, "\x00")) != 0 || e.HostOffset != vma.NoOffset {
				t.Errorf("extent %+v is not zero", e)
			}
		default:
			t.Errorf("extent %+v in a whole archive", e)
		}
	}
	if next != d.Size() {
		t.Errorf("extents end at %d of %d", next, d.Size())
	}
}

// TestShuffled reads at random from an archive whose clusters lie in any
// order, against the disks.
func TestShuffled(t *testing.T) {
	rnd := rand.New(rand.NewPCG(difftest.Seed(t, 3), 0))
	disks := []ram{content(1, 4<<20+5120, 0.6), content(2, 1<<20, 0.5), content(3, 1<<20+512, 0.7)}
	a, err := vma.Open(bytes.NewReader(writeShuffled(t, rnd, disks)), nil)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 300<<10)
	for range difftest.Scale(t, 5000) {
		i := rnd.IntN(len(disks))
		d, disk := a.Devices()[i], disks[i]
		off, n := rnd.IntN(len(disk)), rnd.IntN(len(buf))
		p := buf[:n]
		got, err := d.ReadAt(p, int64(off))
		want := min(n, len(disk)-off)
		if got != want || (err == io.EOF) != (n > want) || err != nil && err != io.EOF {
			t.Fatalf("ReadAt of %d at %d of %d: %d, %v", n, off, len(disk), got, err)
		}
		if !bytes.Equal(p[:got], disk[off:off+got]) {
			t.Fatalf("ReadAt of %d at %d: other bytes", n, off)
		}
	}
	small := content(4, 70<<10+512, 0.5)
	b, err := vma.Open(bytes.NewReader(writeShuffled(t, rnd, []ram{small, content(5, 512, 1)})), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := iotest.TestReader(io.NewSectionReader(b.Devices()[0], 0, small.Size()), small); err != nil {
		t.Error(err)
	}
	vm := a.VMState()
	if vm == nil || !vm.IsVMState() || vm.Name() != vma.VMStateName || a.Device("disk1") != a.Devices()[1] || a.Device("x") != nil {
		t.Error("devices are not found by name")
	}
}

// TestConcurrent reads a device from several goroutines.
func TestConcurrent(t *testing.T) {
	disk := content(5, 4<<20, 0.6)
	a, err := vma.Open(bytes.NewReader(build(t, false, disk)), nil)
	if err != nil {
		t.Fatal(err)
	}
	d := a.Devices()[0]
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			p := make([]byte, 70000)
			for off := g * 1000; off+len(p) < len(disk); off += len(p) {
				if _, err := d.ReadAt(p, int64(off)); err != nil || !bytes.Equal(p, disk[off:off+len(p)]) {
					t.Errorf("at %d: %v, or other bytes", off, err)
				}
			}
		})
	}
	wg.Wait()
}

// TestStreamReaders reads archives through readers that hand out little, or
// the end with the last bytes.
func TestStreamReaders(t *testing.T) {
	disks := []ram{content(1, 1<<20, 0.3), content(2, 300<<10, 0.5)}
	b := build(t, true, disks...)
	for name, r := range map[string]io.Reader{
		"one byte": iotest.OneByteReader(bytes.NewReader(b)),
		"half":     iotest.HalfReader(bytes.NewReader(b)),
		"data err": iotest.DataErrReader(bytes.NewReader(b)),
	} {
		_, got := readStream(t, r, nil)
		for i, d := range disks {
			if !bytes.Equal(got[uint8(i+1)], d) {
				t.Errorf("%s: device %d differs", name, i+1)
			}
		}
	}
	rd, err := vma.NewReader(iotest.TimeoutReader(bytes.NewReader(b)), nil)
	for err == nil {
		_, err = rd.Next()
	}
	if !errors.Is(err, iotest.ErrTimeout) {
		t.Errorf("an error of the reader: %v", err)
	}
	if _, err := vma.NewReader(stuck{}, nil); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("a reader that returns nothing: %v", err)
	}
}

type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

// TestReadsNoFurther tests that a Reader asks for no byte past the extent that
// it hands out.
func TestReadsNoFurther(t *testing.T) {
	b := build(t, false, content(1, 130<<16, 0.1))
	p := takeApart(b)
	r := &counter{r: bytes.NewReader(b)}
	rd, err := vma.NewReader(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.n != len(p.header) {
		t.Errorf("the header took %d bytes of %d", r.n, len(p.header))
	}
	want := len(p.header)
	for i := range 130 {
		if i%58 == 0 {
			want += len(p.extents[i/58])
		}
		if _, err := rd.Next(); err != nil {
			t.Fatal(err)
		}
		if r.n != want {
			t.Fatalf("cluster %d took %d bytes, want %d", i, r.n, want)
		}
	}
	if _, err := rd.Next(); err != io.EOF {
		t.Error(err)
	}
}

type counter struct {
	r io.Reader
	n int
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}

// TestReaderMemory tests that a Reader takes less than 8 MiB whatever the
// archive holds.
func TestReaderMemory(t *testing.T) {
	b := build(t, false, content(1, 130<<16, 1))
	got := testing.AllocsPerRun(1, func() {
		rd, err := vma.NewReader(bytes.NewReader(b), nil)
		for err == nil {
			_, err = rd.Next()
		}
	})
	if got > 200 {
		t.Errorf("%v allocations", got)
	}
	if n := allocated(func() {
		rd, err := vma.NewReader(bytes.NewReader(b), nil)
		for err == nil {
			_, err = rd.Next()
		}
	}); n > 8<<20 {
		t.Errorf("%d bytes allocated", n)
	}
}

// allocated returns how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// TestIndexMemory tests that the index takes at most 16 bytes a cluster,
// dense or, in an archive cut in two, sparse.
func TestIndexMemory(t *testing.T) {
	const clusters = 400_000
	var b bytes.Buffer
	w, err := vma.NewWriter(&b, testHeader(vma.DeviceInfo{Name: "a", Size: clusters << 16}), &vma.WriterOptions{FillMissing: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	half := bytes.NewReader(b.Bytes()[:b.Len()/2])
	for name, c := range map[string]struct {
		r        *bytes.Reader
		clusters int
	}{"whole": {bytes.NewReader(b.Bytes()), clusters}, "half": {half, clusters / 2}} {
		var a *vma.Archive
		n := retained(func() any {
			a, err = vma.Open(c.r, &vma.Options{Profile: vma.Salvage})
			if err != nil {
				t.Fatal(err)
			}
			return a
		})
		t.Logf("%s: %.1f bytes a cluster", name, float64(n)/float64(c.clusters))
		if n > int64(16*c.clusters) {
			t.Errorf("%s: %d bytes for %d clusters", name, n, c.clusters)
		}
	}
}

// retained returns how much memory what f returns holds.
func retained(f func() any) int64 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	v := f()
	runtime.GC()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(v)
	return int64(after.HeapAlloc) - int64(before.HeapAlloc)
}

func TestOpenErrors(t *testing.T) {
	b := build(t, false, content(1, 1<<20, 0.3))
	for name, c := range map[string]struct {
		b    []byte
		want error
	}{
		"empty":      {nil, vma.ErrFormat},
		"text":       {[]byte("hello"), vma.ErrFormat},
		"zeros":      {make([]byte, 1<<20), vma.ErrFormat},
		"zstd":       {append([]byte("\x28\xb5\x2f\xfd"), b...), vma.ErrFormat},
		"short":      {b[:5000], io.ErrUnexpectedEOF},
		"cut":        {b[:len(b)-1], io.ErrUnexpectedEOF},
		"version":    {mutant(t, "version 2"), errors.ErrUnsupported},
		"duplicates": {mutant(t, "duplicate"), nil},
	} {
		for _, p := range []vma.Profile{vma.Proxmox, vma.Strict} {
			err := openError(c.b, p)
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("%s: %v, want %v", name, err, c.want)
			}
		}
	}
	for name, b := range map[string][]byte{"empty": nil, "text": []byte("hello"), "zeros": make([]byte, 1<<20)} {
		if err := openError(b, vma.Salvage); !errors.Is(err, vma.ErrFormat) {
			t.Errorf("%s is salvaged: %v", name, err)
		}
	}
	for name, want := range map[string]string{
		"duplicate":      "vma: extent 0 slot 6 at 0x3258: duplicate cluster: device 1 cluster 6",
		"device unknown": "vma: extent 2 slot 26 at 0x566f8: unknown device: device 9 cluster 2",
		"magic":          "vma: header at 0x0: wrong header magic",
		"extent md5":     "vma: extent 1 at 0x2d418: wrong extent header checksum",
	} {
		if err := openError(mutant(t, name), vma.Proxmox); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
	if _, err := vma.Open(struct{ io.ReaderAt }{bytes.NewReader(b)}, nil); err == nil {
		t.Error("opened an archive of no known length")
	}
	if _, err := vma.Open(struct{ io.ReaderAt }{bytes.NewReader(b)}, &vma.Options{Size: int64(len(b))}); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := vma.OpenContext(ctx, bytes.NewReader(b), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

func TestOpenFile(t *testing.T) {
	disk := content(1, 540672, 0.3)
	name := filepath.Join(t.TempDir(), "a.vma")
	if err := os.WriteFile(name, build(t, false, disk), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := vma.OpenFile(name, nil)
	if err != nil {
		t.Fatal(err)
	}
	h := a.Header()
	if conf, ok := h.Config("qemu-server.conf"); !ok || string(conf) != "memory: 512\n" {
		t.Errorf("config %q", conf)
	}
	if _, ok := h.Config("x"); ok || h.Time().Unix() != 1700000000 {
		t.Error("header lookups")
	}
	d := a.Devices()[0]
	if a.VMState() != nil || d.HostFile(0) == nil || d.HostFile(1) != nil {
		t.Error("a state of the machine, or a second layer")
	}
	if _, err := d.ReadAt(make([]byte, 1), -1); err == nil {
		t.Error("reads at -1")
	}
	if n, err := d.ReadAt(make([]byte, 1), d.Size()); n != 0 || err != io.EOF {
		t.Errorf("read at the end: %d, %v", n, err)
	}
	for _, r := range [][2]int64{{-1, 5}, {0, -1}} {
		for _, err := range d.Extents(r[0], r[1]) {
			if err == nil {
				t.Errorf("extents of %d bytes at %d", r[1], r[0])
			}
		}
	}
	for x := range d.Extents(d.Size(), 1) {
		t.Errorf("%+v past the end", x)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(name); err != nil {
		t.Fatal(err)
	} else if a, err := vma.Open(bytes.NewReader(b), nil); err != nil || a.Close() != nil {
		t.Errorf("Close of what OpenFile did not open: %v", err)
	}
	if _, err := a.Devices()[0].ReadAt(make([]byte, 1<<19), 0); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("read after Close: %v", err)
	}
	if _, err := vma.OpenFile(filepath.Join(t.TempDir(), "none"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}
