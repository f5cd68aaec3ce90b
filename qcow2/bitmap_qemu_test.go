package qcow2_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/qcow2"
)

// modelBitmap is what a bitmap must be.
type modelBitmap struct {
	gran    int
	enabled bool
	dirty   map[int]bool // bits
}

func (m *modelBitmap) set(off, n int) {
	for i := off / m.gran; i*m.gran < off+n; i++ {
		m.dirty[i] = true
	}
}

// ranges returns what is dirty of a disk of that size.
func (m *modelBitmap) ranges(size int) []qcow2.Range {
	var list []qcow2.Range
	for _, i := range slices.Sorted(maps.Keys(m.dirty)) {
		start, end := int64(i*m.gran), int64(min((i+1)*m.gran, size))
		if k := len(list) - 1; k >= 0 && list[k].Start+list[k].Length == start {
			list[k].Length += end - start
			continue
		}
		list = append(list, qcow2.Range{Start: start, Length: end - start})
	}
	return list
}

// markedImage is an image with bitmaps that QEMU's tools and this package
// change by turns.
type markedImage struct {
	*shared
	bitmaps map[string]*modelBitmap
	order   []string
}

// bitmap does something to a bitmap, here or by qemu-img.
func (d *markedImage) bitmap(mine bool, name string, here func(im *qcow2.Image) error, args ...string) {
	d.t.Helper()
	if !mine {
		difftest.Run(d.t, d.img, append(append([]string{"bitmap"}, args...), "-f", "qcow2", "x.qcow2", name)...)
		return
	}
	d.here(func(im *qcow2.Image) {
		if err := here(im); err != nil {
			d.t.Fatalf("%v %s: %v", args, name, err)
		}
	})
}

func (d *markedImage) step() {
	d.t.Helper()
	mine := d.rng.IntN(2) == 0
	name := ""
	var m *modelBitmap
	if len(d.order) > 0 {
		name = d.order[d.rng.IntN(len(d.order))]
		m = d.bitmaps[name]
	}
	note := func(what string) { d.log = append(d.log, fmt.Sprintf("%s %s %v", what, name, mine)) }
	switch k := d.rng.IntN(18); {
	case k < 3 && len(d.order) < 4 || m == nil:
		d.add(mine)
	case k < 4:
		note("remove")
		d.bitmap(mine, name, func(im *qcow2.Image) error { return im.RemoveBitmap(name) }, "--remove")
		delete(d.bitmaps, name)
		d.order = slices.DeleteFunc(d.order, func(s string) bool { return s == name })
	case k < 5:
		note("clear")
		d.bitmap(mine, name, func(im *qcow2.Image) error { return im.ClearBitmap(name) }, "--clear")
		clear(m.dirty)
	case k < 6:
		note("enable")
		d.bitmap(mine, name, func(im *qcow2.Image) error { return im.EnableBitmap(name) }, "--enable")
		m.enabled = true
	case k < 7:
		note("disable")
		d.bitmap(mine, name, func(im *qcow2.Image) error { return im.DisableBitmap(name) }, "--disable")
		m.enabled = false
	case k < 9:
		from := d.order[d.rng.IntN(len(d.order))]
		note("merge " + from)
		d.bitmap(mine, name, func(im *qcow2.Image) error { return im.MergeBitmap(d.t.Context(), name, im, from) }, "--merge", from)
		for _, r := range d.bitmaps[from].ranges(len(d.want)) {
			m.set(int(r.Start), int(r.Length))
		}
	case k < 11:
		note(d.resize(&mine))
		for _, m := range d.bitmaps {
			maps.DeleteFunc(m.dirty, func(i int, _ bool) bool { return i*m.gran >= len(d.want) })
		}
	case k < 12 && len(d.names) < 3 && !d.fl.data && d.fl.name != "512":
		note("snapshot")
		d.createSnapshot(mine)
	case k < 13 && len(d.names) > 0:
		note("delete snapshot")
		d.deleteSnapshot(mine, d.rng.IntN(len(d.names)))
	default:
		note("write")
		for _, o := range d.write(mine) {
			for _, m := range d.bitmaps {
				if m.enabled && o.n > 0 {
					m.set(o.off, o.n)
				}
			}
		}
	}
}

func (d *markedImage) add(mine bool) {
	d.t.Helper()
	d.next++
	name := fmt.Sprint("bitmap-", d.next)
	m := &modelBitmap{gran: 512 << d.rng.IntN(10), enabled: d.rng.IntN(3) > 0, dirty: map[int]bool{}}
	args := []string{"--add", "-g", fmt.Sprint(m.gran)}
	if !m.enabled {
		args = append(args, "--disable")
	}
	d.log = append(d.log, fmt.Sprintf("add %s %v %v", name, args, mine))
	d.bitmap(mine, name, func(im *qcow2.Image) error {
		return im.AddBitmap(name, &qcow2.BitmapOptions{Granularity: int64(m.gran), Disabled: !m.enabled})
	}, args...)
	d.bitmaps[name] = m
	d.order = append(d.order, name)
}

// judge compares the bitmaps with what they must be, as they are read here and
// by QEMU.
func (d *markedImage) judge() {
	d.t.Helper()
	d.shared.judge()
	im, err := qcow2.OpenFile("x.qcow2", &qcow2.Options{MetadataOnly: true})
	if err != nil {
		d.t.Fatal(err)
	}
	defer im.Close()
	list, err := im.Bitmaps()
	if err != nil {
		d.t.Fatal(err)
	}
	want := []qcow2.Bitmap{}
	for _, name := range d.order {
		m := d.bitmaps[name]
		want = append(want, qcow2.Bitmap{Name: name, Granularity: int64(m.gran), Enabled: m.enabled})
	}
	byName := func(a, b qcow2.Bitmap) int { return strings.Compare(a.Name, b.Name) }
	slices.SortFunc(list, byName)
	slices.SortFunc(want, byName)
	if diff := cmp.Diff(want, list); diff != "" {
		d.t.Fatalf("bitmaps (-want +got)\n%s", diff)
	}
	for _, name := range d.order {
		want := d.bitmaps[name].ranges(len(d.want))
		if diff := cmp.Diff(want, dirtyRanges(d.t, im, name)); diff != "" {
			d.t.Fatalf("%s (-want +got)\n%s", name, diff)
		}
	}
	if len(d.order) > 0 {
		name := d.order[d.rng.IntN(len(d.order))]
		if diff := cmp.Diff(d.bitmaps[name].ranges(len(d.want)), dirtyByQemu(d.t, d.img, "x.qcow2", name, int64(len(d.want)))); diff != "" {
			d.t.Fatalf("%s, by qemu (-want +got)\n%s", name, diff)
		}
	}
}

func dirtyRanges(t *testing.T, im *qcow2.Image, name string) []qcow2.Range {
	t.Helper()
	var list []qcow2.Range
	for r, err := range im.DirtyRanges(name) {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, r)
	}
	return list
}

// dirtyByQemu returns what a bitmap holds, as qemu-nbd tells it.
func dirtyByQemu(t *testing.T, img, image, name string, size int64) []qcow2.Range {
	t.Helper()
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, "copy.qcow2", b)
	difftest.Run(t, img, "bitmap", "--disable", "-f", "qcow2", "copy.qcow2", name)
	return exportedBitmap(t, name, size, "-f", "qcow2", "copy.qcow2")
}

// exportedBitmap returns what qemu-nbd tells of a bitmap that is not enabled,
// of an image that args open.
func exportedBitmap(t *testing.T, name string, size int64, args ...string) []qcow2.Range {
	t.Helper()
	nbd, info := difftest.Tool(t, "qemu-nbd", "7.2"), difftest.Tool(t, "nbdinfo", "1.14")
	socket := filepath.Join(difftest.SocketDir(t), "s")
	cmd := exec.CommandContext(t.Context(), nbd, append([]string{"-r", "-t", "-k", socket, "-B", name}, args...)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	for range 30000 {
		if c, err := net.Dial("unix", socket); err == nil {
			c.Close()
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	out := difftest.Run(t, info, "--json", "--map=qemu:dirty-bitmap:"+name, "nbd+unix:///?socket="+socket)
	var extents []struct {
		Offset, Length int64
		Type           int
	}
	if err := json.Unmarshal(out, &extents); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var list []qcow2.Range
	for _, e := range extents {
		if e.Type&1 == 0 {
			continue
		}
		e.Length = min(e.Length, size-e.Offset)
		if k := len(list) - 1; k >= 0 && list[k].Start+list[k].Length == e.Offset {
			list[k].Length += e.Length
			continue
		}
		list = append(list, qcow2.Range{Start: e.Offset, Length: e.Length})
	}
	return list
}

// TestBitmapsWithQemu changes one image here and by QEMU's tools, in turn.
func TestBitmapsWithQemu(t *testing.T) {
	seed := difftest.Seed(t, 1)
	for i, fl := range flavours() {
		if fl.create == "compat=0.10" || fl.name == "v2-backing" {
			continue
		}
		t.Run(fl.name, func(t *testing.T) {
			d := &markedImage{newShared(t, &fl, rand.New(rand.NewPCG(seed, uint64(i))).Uint64()), map[string]*modelBitmap{}, nil}
			for n := range difftest.Scale(t, 24) {
				d.step()
				if n%3 == 2 {
					d.judge()
				}
			}
			d.judge()
		})
	}
}
