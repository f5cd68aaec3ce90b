package qcow2_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qcow2"
)

// A repairPair is an image repaired twice.
type repairPair struct {
	ours, qemus        string // files
	result             *qcow2.CheckResult
	oursLeft, qemuLeft int // what qemu-img check exits with, afterwards
	oursInQemu         *qemuCheck
}

// repairBoth repairs an image here and with qemu-img. The result is nil if it
// cannot be checked here.
func repairBoth(t *testing.T, dir string, b []byte) *repairPair {
	t.Helper()
	p := &repairPair{ours: filepath.Join(dir, "ours.qcow2"), qemus: filepath.Join(dir, "qemus.qcow2")}
	f := memfile.FromBytes(b)
	var err error
	if p.result, err = qcow2.Repair(t.Context(), f, qcow2.RepairAll, nil); err != nil {
		return nil
	}
	if err := os.WriteFile(p.ours, f.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.qemus, b, 0o600); err != nil {
		t.Fatal(err)
	}
	img := difftest.Tool(t, "qemu-img", "7.2")
	difftest.Try(t, img, "check", "-q", "-f", "qcow2", "-r", "all", p.qemus)
	_, p.qemuLeft = checkWithQemu(t, p.qemus, false)
	p.oursInQemu, p.oursLeft = checkWithQemu(t, p.ours, false)
	return p
}

// judge holds our repair of an image against qemu's.
func (p *repairPair) judge(t *testing.T, what string, damaged []byte) {
	t.Helper()
	if overlaps(damaged) {
		return // mending the one destroys the other
	}
	if p.oursInQemu != nil && counts(p.result) != *p.oursInQemu {
		t.Errorf("%s: Repair finds %+v at the end, qemu-img %+v", what, counts(p.result), *p.oursInQemu)
	}
	if !bytes.Equal(contentOf(t, p.ours), content(t, bytes.NewReader(damaged))) {
		t.Errorf("%s: the content changed", what)
	}
	if p.qemuLeft == 0 && p.oursLeft != 0 {
		t.Errorf("%s: qemu-img repairs all, here is left: %v", what, p.result.Findings)
	}
}

// overlaps reports whether a cluster of an image is used in two ways: as
// guest data and as metadata, or as metadata of two kinds.
func overlaps(b []byte) bool {
	e := edit(b)
	use, twice := map[int64]string{}, false
	mark := func(off, n int64, how string) {
		for c := off / e.cluster; c <= (off+n-1)/e.cluster; c++ {
			if was, ok := use[c]; ok && was != how {
				twice = true
			}
			use[c] = how
		}
	}
	word := func(off int64) uint64 {
		if off < 0 || off+8 > int64(len(b)) {
			return 0
		}
		return e.u64(off)
	}
	const mask = 0x00fffffffffffe00
	l2Table := func(l2 int64) {
		mark(l2, e.cluster, "L2")
		for at := l2; at < l2+e.cluster; at += e.entrySize {
			switch w := word(at); {
			case w>>62&1 == 1:
				x := 62 - (binary.BigEndian.Uint32(b[20:]) - 8)
				mark(int64(w&(1<<x-1)), int64(w&(1<<62-1)>>x+1)*512, "data")
			case w&mask != 0:
				mark(int64(w&mask), e.cluster, "data")
			}
		}
	}
	l1Table := func(l1, n int64, how string) {
		mark(l1, max(n*8, 1), how)
		for at := l1; at < min(l1+n*8, int64(len(b))); at += 8 {
			if w := word(at); w != 0 {
				l2Table(int64(w & mask))
			}
		}
	}
	mark(0, e.cluster, "header")
	l1Table(e.l1, int64(binary.BigEndian.Uint32(b[36:])), "L1")
	clusters := int64(binary.BigEndian.Uint32(b[56:]))
	mark(e.refTable, max(clusters, 1)*e.cluster, "refcount table")
	for at := e.refTable; at < min(e.refTable+clusters*e.cluster, int64(len(b))); at += 8 {
		if w := int64(word(at)) &^ 511; w > 0 {
			mark(w, e.cluster, fmt.Sprint("refcount block", at))
		}
	}
	for i := range int64(binary.BigEndian.Uint32(b[60:])) {
		at := e.snapshotEntry(i)
		if at < 0 || at+40 > int64(len(b)) {
			break
		}
		mark(at, 40, "snapshot table")
		l1Table(int64(word(at)), int64(binary.BigEndian.Uint32(b[at+8:])), fmt.Sprint("L1 of ", i))
	}
	return twice
}

// contentOf is content of a file, which qemu may have made enormous.
func contentOf(t *testing.T, name string) []byte {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return content(t, f)
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// snapshots returns what qemu-img snapshot -l prints, and the content of each.
func snapshots(t *testing.T, name string) (list string, content [][]byte) {
	t.Helper()
	img := difftest.Tool(t, "qemu-img", "7.2")
	list = string(difftest.Run(t, img, "snapshot", "-l", name))
	for _, m := range regexp.MustCompile(`(?m)^(\d+) `).FindAllStringSubmatch(list, -1) {
		raw := name + ".raw"
		if r := difftest.Try(t, img, "convert", "-f", "qcow2", "-l", m[1], "-O", "raw", name, raw); r.Code != 0 {
			content = append(content, r.Stderr)
			continue
		}
		content = append(content, read(t, raw))
	}
	return list, content
}

func TestRepairDamagesAsQemu(t *testing.T) {
	dir := difftest.FastDir(t)
	for _, d := range damages {
		p := repairBoth(t, dir, d.make(t))
		if p == nil {
			t.Errorf("%s: not repaired", d.name)
			continue
		}
		p.judge(t, d.name, d.make(t))
		if p.qemuLeft != 0 {
			continue
		}
		oursList, ours := snapshots(t, p.ours)
		qemusList, qemus := snapshots(t, p.qemus)
		if oursList != qemusList {
			t.Errorf("%s: snapshots\n%s\nqemu-img leaves\n%s", d.name, oursList, qemusList)
		}
		for i := range ours {
			if !bytes.Equal(ours[i], qemus[i]) {
				t.Errorf("%s: snapshot %d holds something else than qemu-img leaves", d.name, i)
			}
		}
	}
}

func TestRepairDamagedAsQemu(t *testing.T) {
	random := rand.New(rand.NewPCG(difftest.Seed(t, 1), 3))
	dir := difftest.FastDir(t)
	var images [][]byte
	var names []string
	for _, f := range damageables() {
		// qemu 7.2 forgets the snapshots of an image that has bitmaps when it
		// opens it for repair.
		if f.name == "v3-bitmaps" || f.name == "v3-luks" {
			continue
		}
		if b := f.make(t); len(b) < 4<<20 {
			images, names = append(images, b), append(names, f.name)
		}
	}
	for range difftest.Scale(t, 60) {
		i := random.IntN(len(images))
		b := bytes.Clone(images[i])
		var what strings.Builder
		what.WriteString(names[i] + ": " + damageAtRandom(random, b))
		for random.IntN(3) == 0 {
			what.WriteString(", " + damageAtRandom(random, b))
		}
		failed := t.Failed()
		if p := repairBoth(t, dir, b); p != nil {
			p.judge(t, what.String(), b)
		}
		if t.Failed() && !failed {
			os.WriteFile(filepath.Join(t.ArtifactDir(), "damaged.qcow2"), b, 0o600)
		}
	}
}

// TestDirtyByQemu opens for writing what a qemu that was killed left behind.
func TestDirtyByQemu(t *testing.T) {
	img, io := difftest.Tool(t, "qemu-img", "7.2"), difftest.Tool(t, "qemu-io", "7.2")
	name := filepath.Join(difftest.FastDir(t), "dirty.qcow2")
	for _, options := range []string{"", ",cluster_size=512", ",extended_l2=on", ",refcount_bits=1"} {
		difftest.Run(t, img, "create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on"+options, name, "16M")
		difftest.Try(t, io, "-f", "qcow2", "-c", "write -P 1 0 3M", "-c", "flush", "-c", "write -P 2 5M 1M", "-c", "flush", "-c", "abort", name)
		before := read(t, name)
		if before[79]&qcow2.IncompatDirty == 0 {
			t.Fatalf("lazy_refcounts=on%s: qemu left no dirty image", options)
		}
		im, err := qcow2.OpenFile(name, &qcow2.Options{Write: true})
		if err != nil {
			t.Fatalf("lazy_refcounts=on%s: %v", options, err)
		}
		if err := im.Close(); err != nil {
			t.Error(err)
		}
		after := read(t, name)
		if _, code := checkWithQemu(t, name, false); code != 0 || after[79]&qcow2.IncompatDirty != 0 {
			t.Errorf("lazy_refcounts=on%s: qemu-img check exits with %d, marks %#x", options, code, after[79])
		}
		if im.Header().CompatibleFeatures&qcow2.CompatLazyRefcounts == 0 {
			t.Errorf("lazy_refcounts=on%s: the image is no longer lazy", options)
		}
		if !bytes.Equal(content(t, bytes.NewReader(before)), contentOf(t, name)) {
			t.Errorf("lazy_refcounts=on%s: the content changed", options)
		}
	}
}
