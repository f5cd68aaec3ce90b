package qcow2_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/qcow2"
)

// A shared image is changed by turns by QEMU's tools and by this package. Who
// does what is chosen at random; what the disk and its snapshots must hold is
// known from the operations.
type shared struct {
	t     *testing.T
	fl    *flavour
	rng   *rand.Rand
	img   string
	want  []byte
	kept  map[string][]byte // by name
	names []string          // in the order of the table
	next  int
	log   []string
}

func newShared(t *testing.T, fl *flavour, seed uint64) *shared {
	t.Helper()
	d := &shared{t: t, fl: fl, rng: rand.New(rand.NewPCG(seed, 0)), img: difftest.Tool(t, "qemu-img", "7.2"), kept: map[string][]byte{}}
	fl.make(t, t.TempDir(), "x.qcow2")
	d.want = make([]byte, fl.size)
	if fl.base > 0 {
		base, err := os.ReadFile("base.raw")
		if err != nil {
			t.Fatal(err)
		}
		copy(d.want, base)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("last steps: %q", d.log[max(0, len(d.log)-20):])
		}
	})
	return d
}

// here opens the image with this package.
func (d *shared) here(f func(im *qcow2.Image)) {
	d.t.Helper()
	im, err := qcow2.OpenFile("x.qcow2", &qcow2.Options{Root: openRoot(d.t, "."), Write: true})
	if err != nil {
		d.t.Fatal(err)
	}
	f(im)
	if err := im.Close(); err != nil {
		d.t.Fatal(err)
	}
}

// qemu runs qemu-img on the image.
func (d *shared) qemu(args ...string) {
	d.t.Helper()
	difftest.Run(d.t, d.img, append(args, "x.qcow2")...)
}

// write does some writes, takes down what they did, and returns them.
func (d *shared) write(mine bool) []op {
	d.t.Helper()
	fl := *d.fl
	fl.size = len(d.want)
	ops := fl.randomOps(d.rng, 1+d.rng.IntN(12), false)
	ops = slices.DeleteFunc(ops, func(o op) bool { return o.kind == 'd' && fl.base > 0 && strings.Contains(fl.create, "0.10") })
	if mine {
		d.here(func(im *qcow2.Image) {
			for _, o := range ops {
				if err := o.do(im); err != nil {
					d.t.Fatalf("%v: %v", o, err)
				}
			}
		})
	} else {
		qemuIO(d.t, ".", "x.qcow2", mirrorCommands(ops))
	}
	for _, o := range ops {
		part := d.want[o.off : o.off+o.n]
		switch o.kind {
		case 'w':
			copy(part, bytes.Repeat([]byte{o.fill}, o.n))
		case 'd':
			first, last := (o.off+fl.cluster-1)/fl.cluster*fl.cluster, (o.off+o.n)/fl.cluster*fl.cluster
			if o.off+o.n == len(d.want) {
				last = len(d.want)
			}
			if first < last {
				clear(d.want[first:last])
			}
		default:
			clear(part)
		}
	}
	return ops
}

// createSnapshot takes a snapshot and returns its name.
func (d *shared) createSnapshot(mine bool) string {
	d.t.Helper()
	d.next++
	name := fmt.Sprint("snap-", d.next)
	if mine {
		d.here(func(im *qcow2.Image) {
			if _, err := im.CreateSnapshot(d.t.Context(), name, nil); err != nil {
				d.t.Fatal(err)
			}
		})
	} else {
		d.qemu("snapshot", "-c", name)
	}
	d.names = append(d.names, name)
	d.kept[name] = bytes.Clone(d.want)
	return name
}

// deleteSnapshot deletes the snapshot i of the table.
func (d *shared) deleteSnapshot(mine bool, i int) {
	d.t.Helper()
	if mine {
		d.here(func(im *qcow2.Image) {
			if err := im.DeleteSnapshot(d.t.Context(), d.names[i]); err != nil {
				d.t.Fatal(err)
			}
		})
	} else {
		d.qemu("snapshot", "-d", d.names[i])
	}
	d.names = slices.Delete(d.names, i, i+1)
}

// step does one random operation.
func (d *shared) step() {
	d.t.Helper()
	mine := d.rng.IntN(2) == 0
	note := func(format string, args ...any) {
		d.log = append(d.log, fmt.Sprintf(format, args...)+map[bool]string{true: " here", false: " by qemu"}[mine])
	}
	ctx := d.t.Context()
	name := ""
	i := 0
	if len(d.names) > 0 {
		i = d.rng.IntN(len(d.names))
		name = d.names[i]
	}
	switch k := d.rng.IntN(12); {
	case k >= 10 && (len(d.names) == 0 || !strings.Contains(d.fl.create, "0.10")):
		note("%s", d.resize(&mine))
	case k < 3 && len(d.names) < 5 && !d.fl.data:
		note("create %s", d.createSnapshot(mine))
	case k < 5 && name != "":
		note("delete %s", name)
		d.deleteSnapshot(mine, i)
	case k < 6 && name != "":
		note("apply %s", name)
		if mine {
			d.here(func(im *qcow2.Image) {
				if err := im.ApplySnapshot(ctx, name); err != nil {
					d.t.Fatal(err)
				}
			})
		} else {
			d.qemu("snapshot", "-a", name)
		}
		d.want = bytes.Clone(d.kept[name])
	case k < 8 || d.fl.data:
		note("write")
		d.write(mine)
	default:
		mine = true
		note("compress")
		d.compress()
	}
}

// compress writes some clusters that have no place compressed.
func (d *shared) compress() {
	d.t.Helper()
	d.here(func(im *qcow2.Image) {
		for range 4 {
			off := d.rng.IntN(len(d.want)) / d.fl.cluster * d.fl.cluster
			p := bytes.Repeat([]byte{byte(1 + d.rng.IntN(255))}, min(d.fl.cluster, len(d.want)-off))
			_, err := im.WriteCompressedAt(p, int64(off))
			if err == nil {
				copy(d.want[off:], p)
			} else if !errors.Is(err, qcow2.ErrAllocated) {
				d.t.Fatal(err)
			}
		}
	})
}

// resize gives the disk another size. QEMU, if it is its turn, makes it larger
// only where it adds zeros: it shows what a disk that ended in the middle of a
// cluster held there before it was made smaller.
func (d *shared) resize(mine *bool) string {
	d.t.Helper()
	size := max(1, len(d.want)/512+d.rng.IntN(801)-400) * 512
	if d.rng.IntN(2) == 0 {
		size = (size/d.fl.cluster + 1) * d.fl.cluster
	}
	mode := "off"
	if size > len(d.want) {
		if len(d.want)%d.fl.cluster != 0 || d.fl.base > len(d.want) && strings.Contains(d.fl.create, "0.10") {
			*mine = true
		}
		mode = []string{"off", "metadata", "falloc", "full"}[d.rng.IntN(4)]
		if mode != "off" {
			// QEMU shows what was in clusters that were free, also where it freed
			// them, and fails where the file is longer than it needs.
			*mine = true
		}
	}
	if *mine {
		d.here(func(im *qcow2.Image) {
			o := &qcow2.ResizeOptions{Shrink: true}
			for o.Preallocation.String() != mode {
				o.Preallocation++
			}
			if err := im.Resize(d.t.Context(), int64(size), o); err != nil {
				d.t.Fatal(err)
			}
		})
	} else if size != len(d.want) {
		difftest.Run(d.t, d.img, "resize", "-q", "--shrink", "--preallocation="+mode, "x.qcow2", fmt.Sprint(size))
	}
	if size < len(d.want) {
		d.want = bytes.Clone(d.want[:size])
	} else {
		d.want = append(d.want, make([]byte, size-len(d.want))...)
	}
	return fmt.Sprintf("resize to %d, %s", size, mode)
}

// judge holds the image against qemu-img check, and what both sides read and
// list against what there must be.
func (d *shared) judge() {
	d.t.Helper()
	if r := difftest.Try(d.t, d.img, "check", "-q", "-f", "qcow2", "x.qcow2"); r.Code != 0 {
		d.t.Fatalf("qemu-img check: exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	d.compare(d.want)
	if fl := d.rng.IntN(3); fl == 0 && len(d.names) > 0 {
		name := d.names[d.rng.IntN(len(d.names))]
		// qemu-img cuts the snapshot to the size of the disk.
		d.compare(d.kept[name][:min(len(d.kept[name]), len(d.want))], "-l", "snapshot.name="+name)
	}
	im, err := qcow2.OpenFile("x.qcow2", &qcow2.Options{Root: openRoot(d.t, ".")})
	if err != nil {
		d.t.Fatal(err)
	}
	defer im.Close()
	d.same("the disk", im, d.want)
	var m []mapping
	if err := json.Unmarshal(difftest.Run(d.t, d.img, "map", "-f", "qcow2", "--output=json", "x.qcow2"), &m); err != nil {
		d.t.Fatal(err)
	}
	compareMap(d.t, im, m)
	list, err := im.Snapshots()
	if err != nil {
		d.t.Fatal(err)
	}
	var names []string
	for _, s := range list {
		names = append(names, s.Name)
		v, err := im.OpenSnapshot(s.ID)
		if err != nil {
			d.t.Fatal(err)
		}
		d.same("snapshot "+s.Name, v, d.kept[s.Name])
	}
	if !slices.Equal(names, d.names) {
		d.t.Fatalf("snapshots %q, want %q", names, d.names)
	}
	d.listed(list)
}

func (d *shared) same(what string, disk qcow2.Disk, want []byte) {
	d.t.Helper()
	got, err := readAll(disk)
	if err != nil {
		d.t.Fatalf("%s: %v", what, err)
	}
	if len(got) != len(want) {
		d.t.Fatalf("%s has %d bytes, want %d", what, len(got), len(want))
	}
	if i := differ(got, want); i >= 0 {
		d.t.Fatalf("%s: byte %d is %#x, want %#x", what, i, got[i], want[i])
	}
}

// compare holds what qemu-img reads against want, as far as that goes.
func (d *shared) compare(want []byte, args ...string) {
	d.t.Helper()
	difftest.Run(d.t, d.img, append(append([]string{"convert", "-f", "qcow2", "-O", "raw"}, args...), "x.qcow2", "x.raw")...)
	got, err := os.ReadFile("x.raw")
	if err != nil {
		d.t.Fatal(err)
	}
	if i := differ(got[:len(want)], want); i >= 0 {
		d.t.Fatalf("qemu-img %q: byte %d is %#x, want %#x", args, i, got[i], want[i])
	}
}

// listed holds the list of snapshots against that of qemu-img info.
func (d *shared) listed(list []qcow2.Snapshot) {
	d.t.Helper()
	type line struct {
		ID      string `json:"id"`
		Name    string `json:"name"`
		VMState int64  `json:"vm-state-size"`
		Sec     int64  `json:"date-sec"`
		Nsec    int64  `json:"date-nsec"`
		ICount  *int64 `json:"icount"`
		ClockS  int64  `json:"vm-clock-sec"`
		ClockNs int64  `json:"vm-clock-nsec"`
	}
	var info struct {
		Size      int64  `json:"virtual-size"`
		Snapshots []line `json:"snapshots"`
	}
	unmarshal(d.t, difftest.Run(d.t, d.img, "info", "--output=json", "x.qcow2"), &info)
	if info.Size != int64(len(d.want)) || len(info.Snapshots) != len(list) {
		d.t.Fatalf("qemu-img info: %+v, here %+v", info, list)
	}
	for i, s := range list {
		q := info.Snapshots[i]
		icount := int64(-1)
		if q.ICount != nil {
			icount = *q.ICount
		}
		if q.ID != s.ID || q.Name != s.Name || q.VMState != s.VMStateSize || q.Sec != s.Time.Unix() ||
			q.Nsec != int64(s.Time.Nanosecond()) || icount != s.ICount || q.ClockS*1e9+q.ClockNs != int64(s.VMClock) {
			d.t.Fatalf("qemu-img info: %+v, here %+v", q, s)
		}
	}
}

// widen makes room in refcounts for several snapshots, also of compressed
// clusters that share one of the file.
func (fl *flavour) widen() {
	fl.create = regexp.MustCompile(`refcount_bits=[124]\b`).ReplaceAllString(fl.create, "refcount_bits=16")
}

// TestSnapshotsByTurns: QEMU's tools and this package change one image, its
// snapshots and its size by turns.
func TestSnapshotsByTurns(t *testing.T) {
	seed := difftest.Seed(t, 1)
	for _, fl := range flavours() {
		fl.widen()
		for round := range difftest.Scale(t, 1) {
			t.Run(fmt.Sprint(fl.name, "/", round), func(t *testing.T) {
				d := newShared(t, &fl, seed+uint64(round))
				for i := range 32 {
					d.step()
					if i%4 == 3 {
						d.judge()
					}
				}
			})
		}
	}
}

func unmarshal(t *testing.T, b []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
}
