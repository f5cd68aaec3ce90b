package vma_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/vma"
)

// An oracle is testdata/vma_oracle.py, an implementation of the format that
// shares nothing with this one.
type oracle struct {
	tb     testing.TB
	python string
}

func newOracle(tb testing.TB) oracle {
	tb.Helper()
	return oracle{tb, difftest.Tool(tb, "python3", "3.9")}
}

// A manifest is what the oracle says of an archive, one that it made or one
// that it read.
type manifest struct {
	UUID       string `json:"uuid"`
	CTime      int64  `json:"ctime"`
	HeaderSize int64  `json:"header_size"`
	Extents    int64  `json:"extents"`
	Configs    []struct {
		Name   string `json:"name"`
		Size   int    `json:"size"`
		SHA256 string `json:"sha256"`
	} `json:"configs"`
	Devices []struct {
		ID           uint8  `json:"id"`
		Name         string `json:"name"`
		Size         int64  `json:"size"`
		SHA256       string `json:"sha256"`
		StoredBlocks int64  `json:"stored_blocks"`
	} `json:"devices"`
	Problems []string `json:"problems"`
}

func (o oracle) run(args ...string) []byte {
	o.tb.Helper()
	return difftest.Run(o.tb, o.python, append([]string{"testdata/vma_oracle.py"}, args...)...)
}

// create makes an archive and returns its path.
func (o oracle) create(args ...string) (path string, m manifest) {
	o.tb.Helper()
	path = filepath.Join(o.tb.TempDir(), "a.vma")
	o.parse(o.run(append([]string{"create", path}, args...)...), &m)
	return path, m
}

// dump reads an archive.
func (o oracle) dump(path string) (m manifest) {
	o.tb.Helper()
	o.parse(o.run("dump", path), &m)
	return m
}

func (o oracle) parse(b []byte, v any) {
	o.tb.Helper()
	if err := json.Unmarshal(b, v); err != nil {
		o.tb.Fatalf("%v in %.200q", err, b)
	}
}

// A verdict is what the three rule sets of the oracle say of an archive: ok or
// the reason.
type verdict struct{ Verify, Extract, Strict string }

func (o oracle) judge(path string) (v verdict) {
	o.tb.Helper()
	r := difftest.Try(o.tb, o.python, "testdata/vma_oracle.py", "judge", path)
	o.parse(r.Stdout, &v)
	return v
}

type creation struct {
	name string
	args []string
}

// creations are options of the oracle, over which archives are made.
var creations = []creation{
	{"config only", []string{"--config", "qemu-server.conf:300"}},
	{"one device", []string{"--dev", "drive-scsi0:1m:0.6"}},
	{"sequential", []string{"--dev", "a:3m:0.6", "--dev", "b:2m", "--order", "seq", "--config", "x:10"}},
	{"interleaved", []string{"--dev", "a:3m:0.6", "--dev", "b:2m", "--dev", "c:70k", "--order", "interleave"}},
	{"reverse", []string{"--dev", "a:3m:0.6", "--dev", "b:2m", "--vmstate", "1m", "--order", "reverse"}},
	{"random", []string{"--dev", "a:3m:0.6", "--dev", "b:2m", "--vmstate", "1m", "--order", "random"}},
	{"live", []string{"--dev", "a:9m:0.6", "--dev", "b:2m", "--vmstate", "1m", "--order", "live"}},
	{"59 slots", []string{"--dev", "a:9m:0.2", "--per-extent", "59"}},
	{"one slot", []string{"--dev", "a:1m", "--per-extent", "1"}},
	{"gaps", []string{"--dev", "a:4m:0.2", "--per-extent", "random", "--gaps", "--order", "random"}},
	{"odd sizes", []string{"--dev", "efidisk0:540672", "--dev", "a:512", "--dev", "b:4096", "--dev", "c:65536", "--dev", "d:66048", "--dev", "e:1536"}},
	{"not sectors", []string{"--dev", "a:1000", "--dev", "b:65636:1", "--dev", "c:300:1", "--dev", "d:4396:1"}},
	{"all zero", []string{"--dev", "a:5m:0"}},
	{"all stored", []string{"--dev", "a:5m:1", "--order", "live"}},
	{"stored zeros", []string{"--dev", "a:2m:0.4", "--store-zero"}},
	{"vmstate", []string{"--vmstate", "2117632:0.5"}},
	{"vmstate mixed", []string{"--dev", "a:2m", "--vmstate", "700000:0.5", "--order", "live"}},
	{"blob gap", []string{"--dev", "a:1m", "--blob-gap", "1024", "--extra-header", "512"}},
	{"odd header", []string{"--dev", "a:1m", "--extra-header", "77"}},
	{"padded blobs", []string{"--dev", "a:1m", "--pad-blob-size", "--config", "x:1"}},
	{"sparse ids", []string{"--dev", "a:1m", "--dev", "b:1m", "--ids", "3,254", "--order", "random"}},
	{"id 255", []string{"--dev", "a:1m", "--ids", "255"}},
	{"empty config", []string{"--config", "empty:0", "--config", "big:65535", "--dev", "a:64k"}},
	{"early", []string{"--dev", "a:64k", "--ctime", "-5"}},
}

// manyDevices has 254 devices and 256 configs.
func manyDevices() (args []string) {
	for i := range 254 {
		args = append(args, "--dev", fmt.Sprintf("d%d:%d", i, 512*(i+1)))
	}
	for i := range 256 {
		args = append(args, "--config", fmt.Sprintf("c%d:%d", i, i*3))
	}
	return args
}

// TestAgainstOracle reads archives of all shapes that the oracle makes, as a
// stream and at random, and compares hashes and verdicts.
func TestAgainstOracle(t *testing.T) {
	o := newOracle(t)
	for _, c := range append(creations, creation{"all ids and configs", manyDevices()}) {
		t.Run(c.name, func(t *testing.T) {
			o := oracle{t, o.python}
			path, m := o.create(append(c.args, "--seed", c.name)...)
			file, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			compareVerdicts(t, file, o.judge(path))
			compareReport(t, verify(t, file, &vma.Options{Profile: vma.Strict}), m)
			compareContent(t, file, m)
		})
	}
}

func compareReport(t *testing.T, r *vma.Report, m manifest) {
	t.Helper()
	if r.Extents != m.Extents || len(r.Devices) != len(m.Devices) {
		t.Fatalf("%d extents and %d devices, the oracle wrote %d and %d", r.Extents, len(r.Devices), m.Extents, len(m.Devices))
	}
	for i, d := range r.Devices {
		if w := m.Devices[i]; d.Name != w.Name || d.Size != w.Size || d.StoredBlocks != w.StoredBlocks {
			t.Errorf("device %+v, the oracle wrote %+v", d, w)
		}
	}
}

func compareContent(t *testing.T, file []byte, m manifest) {
	t.Helper()
	rd, disks := readStream(t, bytes.NewReader(file), nil)
	if rd.Offset() != int64(len(file)) {
		t.Errorf("read %d of %d bytes", rd.Offset(), len(file))
	}
	a, err := vma.Open(bytes.NewReader(file), nil)
	if err != nil {
		t.Fatal(err)
	}
	compareHeader(t, a.Header(), m)
	for i, d := range a.Devices() {
		b := make([]byte, d.Size())
		if _, err := d.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
		if sum(b) != m.Devices[i].SHA256 {
			t.Errorf("device %s: ReadAt gives other bytes", d.Name())
		}
		if sum(disks[d.Info().ID]) != m.Devices[i].SHA256 {
			t.Errorf("device %s: the stream gives other bytes", d.Name())
		}
		checkExtents(t, d, file, b)
	}
}

func compareHeader(t *testing.T, h vma.Header, m manifest) {
	t.Helper()
	if h.CTime != m.CTime || h.Size != m.HeaderSize || len(h.Configs) != len(m.Configs) || len(h.Devices) != len(m.Devices) {
		t.Fatalf("header %+v, the oracle wrote %+v", h, m)
	}
	for i, c := range h.Configs {
		if w := m.Configs[i]; c.Name != w.Name || sum(c.Data) != w.SHA256 {
			t.Errorf("config %q differs from the oracle's %q", c.Name, w.Name)
		}
	}
	for i, d := range h.Devices {
		if w := m.Devices[i]; d.ID != w.ID || d.Name != w.Name || d.Size != w.Size {
			t.Errorf("device %+v, the oracle wrote %+v", d, w)
		}
	}
}

// TestWrittenAgainstOracle has the oracle judge and read archives written
// here.
func TestWrittenAgainstOracle(t *testing.T) {
	o := newOracle(t)
	rnd := rand.New(rand.NewPCG(difftest.Seed(t, 9), 0))
	odd := []ram{content(1, 540672, 0.4), content(2, 512, 1), content(3, 3<<20+66048, 0.5), content(4, 700<<10, 0.5)}
	limits, limitDisks := writeLimits(t)
	for name, c := range map[string]struct {
		b     []byte
		disks []ram
	}{
		"sequential":  {build(t, true, odd...), odd},
		"any order":   {writeShuffled(t, rnd, odd), odd},
		"all zero":    {build(t, false, make(ram, 5<<20)), []ram{make(ram, 5<<20)}},
		"no device":   {build(t, false), nil},
		"the largest": {limits, limitDisks},
	} {
		t.Run(name, func(t *testing.T) {
			o := oracle{t, o.python}
			path := filepath.Join(t.TempDir(), "a.vma")
			if err := os.WriteFile(path, c.b, 0o600); err != nil {
				t.Fatal(err)
			}
			if v := o.judge(path); v != (verdict{"ok", "ok", "ok"}) {
				t.Errorf("the oracle says %+v", v)
			}
			m := o.dump(path)
			if len(m.Problems) > 0 {
				t.Errorf("the oracle finds %q", m.Problems)
			}
			for i, d := range m.Devices {
				if d.SHA256 != sum(c.disks[i]) {
					t.Errorf("device %d: the oracle reads other bytes", d.ID)
				}
			}
			a, err := vma.Open(bytes.NewReader(c.b), nil)
			if err != nil {
				t.Fatal(err)
			}
			compareHeader(t, a.Header(), m)
		})
	}
}
