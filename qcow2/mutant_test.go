package qcow2_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/internal/mutant"
	"github.com/virtfmt/virtfmt/qcow2"
)

// headerFields are the fields of the header, of 112 bytes.
var headerFields = []mutant.Field{
	mutant.At("magic", 0, 4), mutant.At("version", 4, 4), mutant.At("backing_file_offset", 8, 8), mutant.At("backing_file_size", 16, 4),
	mutant.At("cluster_bits", 20, 4), mutant.At("size", 24, 8), mutant.At("crypt_method", 32, 4), mutant.At("l1_size", 36, 4),
	mutant.At("l1_table_offset", 40, 8), mutant.At("refcount_table_offset", 48, 8), mutant.At("refcount_table_clusters", 56, 4),
	mutant.At("nb_snapshots", 60, 4), mutant.At("snapshots_offset", 64, 8), mutant.At("incompatible_features", 72, 8),
	mutant.At("compatible_features", 80, 8), mutant.At("autoclear_features", 88, 8), mutant.At("refcount_order", 96, 4),
	mutant.At("header_length", 100, 4), mutant.At("compression_type", 104, 1),
}

// imageFields lists the metadata of a good image: what can be found of it from
// the header on. Each kind of structure has about the same number of fields,
// so that a header of few is changed as often as a table of many.
func imageFields(b []byte) []mutant.Field {
	e := edit(b)
	within := func(off int64) bool { return off > 0 && off+8 <= int64(len(b)) }
	groups := [][]mutant.Field{headerFields}
	table := func(name string, off, n int64, size int) {
		if within(off) && n > 0 {
			n = min(n, 64, (int64(len(b))-off)/int64(size))
			groups = append(groups, mutant.Fields(name, off, int(n), size))
		}
	}
	tables := func(kind string, l1, n int64) {
		table("L1 entry of "+kind, l1, n, 8)
		if !within(l1) {
			return
		}
		l2 := e.table(l1)
		table("L2 entry of "+kind, l2, 64, 8)
		for i := range min(e.cluster/8, 512) { // those in use
			if at := l2 + 8*i; within(at) && e.u64(at) != 0 {
				groups = append(groups, mutant.Fields("L2 entry of "+kind, at, 1, 8))
			}
		}
	}
	tables("the disk", e.l1, int64(binary.BigEndian.Uint32(b[36:])))
	table("refcount table", e.refTable, 8, 8)
	if within(e.refTable) {
		table("refcount block", e.table(e.refTable), 16, 8)
	}
	for i := range int64(binary.BigEndian.Uint32(b[60:])) {
		at := e.snapshotEntry(i)
		for _, f := range []mutant.Field{mutant.At("L1 offset", 0, 8), mutant.At("L1 size", 8, 4), mutant.At("id size", 12, 2), mutant.At("name size", 14, 2), mutant.At("VM state size", 32, 4), mutant.At("extra size", 36, 4), mutant.At("large VM state size", 40, 8), mutant.At("disk size", 48, 8)} {
			groups = append(groups, []mutant.Field{{Name: "snapshot's " + f.Name, Off: at + f.Off, Size: f.Size}})
		}
		tables("a snapshot", e.snapshotL1(i), int64(binary.BigEndian.Uint32(b[at+8:])))
	}
	if b[7] == 3 {
		groups = append(groups, extensionFields(b)...)
	}
	var all []mutant.Field
	for _, g := range groups {
		for range max(1, 16/max(1, len(g))) {
			all = append(all, g...)
		}
	}
	return all
}

// extensionFields lists the header extensions of a version 3 image, and what
// they point to.
func extensionFields(b []byte) (groups [][]mutant.Field) {
	be := binary.BigEndian
	e := edit(b)
	for at := int64(be.Uint32(b[100:])); at+8 <= int64(len(b)); {
		kind, n := be.Uint32(b[at:]), int64(be.Uint32(b[at+4:]))
		groups = append(groups, mutant.Fields("extension", at, 2, 4), mutant.Fields("extension data", at+8, int(min(n, 64)/8), 8))
		switch kind {
		case 0:
			return groups
		case qcow2.ExtensionBitmaps:
			dir := int64(e.u64(at + 24))
			groups = append(groups, mutant.Fields("bitmap directory", dir, 8, 4), mutant.Fields("bitmap directory", dir+12, 12, 1),
				mutant.Fields("bitmap table", e.bitmapTable(), 2, 8))
		case qcow2.ExtensionCryptoHeader:
			luks := int64(e.u64(at + 8))
			groups = append(groups, mutant.Fields("LUKS names", luks, 104, 1), mutant.Fields("LUKS header", luks+104, 16, 4))
			for i := range int64(8) {
				groups = append(groups, mutant.Fields("LUKS key slot", luks+208+48*i, 2, 4), mutant.Fields("LUKS key slot", luks+208+48*i+40, 2, 4))
			}
		}
		at += 8 + (n+7)&^7
	}
	return groups
}

// A mutable is a good image, and what opens it.
type mutable struct {
	name   string
	b      []byte
	fields []mutant.Field
	s      sample
	alone  bool // it has neither a backing nor a data file, and no passphrase
}

func mutables(tb testing.TB) []mutable {
	tb.Helper()
	var all []mutable
	for name, s := range samples(tb) {
		all = append(all, mutable{name: name, b: s.image, s: s, alone: s.data == nil && s.backing == nil})
	}
	for _, name := range []string{"v2", "v3", "extended", "bitmap"} {
		all = append(all, mutable{name: name, b: image(tb, name), alone: true})
	}
	for name, o := range map[string]*qcow2.CreateOptions{"luks": luksOptions(4096), "aes": aesOptions(512)} {
		f, im := createEncrypted(tb, 64<<10, o)
		if _, err := im.WriteAt([]byte("content"), 5000); err != nil {
			tb.Fatal(err)
		}
		if err := im.Close(); err != nil {
			tb.Fatal(err)
		}
		all = append(all, mutable{name: name, b: f.Bytes()})
	}
	all = slices.DeleteFunc(all, func(m mutable) bool { return len(m.b) > 1<<20 })
	slices.SortFunc(all, func(a, b mutable) int { return strings.Compare(a.name, b.name) })
	for i := range all {
		all[i].fields = imageFields(all[i].b)
	}
	return all
}

// make returns a mutant.
func (m *mutable) make(random *rand.Rand) ([]byte, string) {
	b, what := mutant.Mutate(random, binary.BigEndian, bytes.Clone(m.b), 1<<m.b[23], m.fields)
	return b, m.name + ": " + what
}

// options opens the other files whatever they are called.
func (m *mutable) options() *qcow2.Options {
	return &qcow2.Options{
		OpenBacking:      func(string, string) (qcow2.Disk, error) { return rawDisk(m.s.backing), nil },
		BackingFormat:    "raw",
		OpenData:         func(string, bool) (qcow2.File, error) { return memfile.FromBytes(m.s.data), nil },
		Passphrase:       func() ([]byte, error) { return []byte("secret"), nil },
		MaxKeyIterations: 100,
	}
}

// TestMutants: whatever the metadata of an image says, nothing that is done
// with it panics or costs more than it may.
func TestMutants(t *testing.T) {
	random := rand.New(rand.NewPCG(difftest.Seed(t, 1), 9))
	all := mutables(t)
	var stats mutant.Stats
	for i := range difftest.Scale(t, 1500) {
		m := &all[i%len(all)]
		b, what := m.make(random)
		tryMutant(t, m, b, what, &stats, random)
	}
	t.Log(&stats)
}

func FuzzMutants(f *testing.F) {
	all := mutables(f)
	for i := range all {
		f.Add(uint8(i), uint64(i))
	}
	f.Fuzz(func(t *testing.T, which uint8, seed uint64) {
		random := rand.New(rand.NewPCG(seed, 9))
		m := &all[int(which)%len(all)]
		b, what := m.make(random)
		tryMutant(t, m, b, what, new(mutant.Stats), random)
	})
}

// tryMutant does with a mutant all that can be done with an image.
func tryMutant(t *testing.T, m *mutable, b []byte, what string, stats *mutant.Stats, random *rand.Rand) {
	t.Helper()
	tr := &mutant.Trial{TB: t, What: what, Mutant: b, Stats: stats}
	stats.Mutants++
	tr.Step("Check", func() { qcow2.Check(t.Context(), bytes.NewReader(b), nil) })
	buf := make([]byte, 64<<10)
	var im *qcow2.Image
	tr.Step("Open", func() { im, _ = qcow2.Open(bytes.NewReader(b), m.options()) })
	if im != nil {
		stats.Opened++
		readMutant(tr, im, buf, random)
		tr.Step("Close", func() { im.Close() })
	}
	f := memfile.FromBytes(b)
	tr.Step("OpenRW", func() { im, _ = qcow2.OpenRW(f, m.options()) })
	if im != nil {
		writeMutant(tr, im, buf, random)
		tr.Step("Close", func() { im.Close() })
	}
	repaired(tr, m, b, buf, random)
}

// readMutant reads up to 16 MiB in pieces spread over the disk.
func readMutant(tr *mutant.Trial, im *qcow2.Image, buf []byte, random *rand.Rand) {
	pieces := min(256, im.Size()/int64(len(buf))+1)
	if testing.Short() {
		pieces = min(pieces, 16)
	}
	tr.Step("reading", func() {
		for i := range pieces {
			im.ReadAt(buf, im.Size()/pieces*i+random.Int64N(4096))
		}
	})
	tr.Step("Extents", func() {
		n := 0
		for _, err := range im.Extents(0, im.Size()) {
			if n++; err != nil || n > 1000 {
				break
			}
		}
	})
	tr.Step("reading snapshots", func() {
		list, _ := im.Snapshots()
		for _, s := range list[:min(len(list), 4)] {
			d, err := im.OpenSnapshot(s.ID)
			if err != nil {
				continue
			}
			d.ReadAt(buf, 0)
			im.Header()
		}
		im.ReadVMStateAt(buf[:1000], 0)
		im.Encryption()
	})
	tr.Step("reading bitmaps", func() {
		list, _ := im.Bitmaps()
		for _, l := range list[:min(len(list), 4)] {
			dirtyOf(im, l.Name)
		}
	})
}

// repaired repairs a copy. If nothing is wrong with it then, it can be used,
// and nothing becomes wrong unnoticed: entries that share clusters with
// metadata are not wrong to a check, here as in QEMU, but to a writer, and of
// two guest clusters in one place the last one lacks the COPIED flag.
func repaired(tr *mutant.Trial, m *mutable, b, buf []byte, random *rand.Rand) {
	ctx := tr.TB.Context()
	f := memfile.FromBytes(b)
	var res *qcow2.CheckResult
	tr.Step("Repair", func() { res, _ = qcow2.Repair(ctx, f, qcow2.RepairAll, nil) })
	if res == nil || !res.Clean() || sharesL1(f.Bytes()) {
		return
	}
	im, err := qcow2.OpenRW(f, m.options())
	if err != nil {
		return
	}
	writeMutant(tr, im, buf, random)
	if err := im.Close(); errors.Is(err, qcow2.ErrCorrupt) {
		return
	}
	if res, err := qcow2.Check(ctx, f, nil); err != nil || noHarm(res, 2) != nil {
		tr.Fail("after a repair that left nothing, and writes: %v, %+v", err, res)
	}
}

// sharesL1 reports whether a snapshot's L1 table is the active one: a check
// has nothing against it, here as in QEMU, but what changes the one changes
// the other.
func sharesL1(b []byte) bool {
	e := edit(b)
	for i := range int64(binary.BigEndian.Uint32(b[60:])) {
		if at := e.snapshotEntry(i); at+8 <= int64(len(b)) && e.snapshotL1(i) == e.l1 {
			return true
		}
	}
	return false
}

// TestMutantsInQemu: what QEMU reads of a mutant is what is read here.
func TestMutantsInQemu(t *testing.T) {
	io := difftest.Tool(t, "qemu-io", "7.2")
	random := rand.New(rand.NewPCG(difftest.Seed(t, 1), 10))
	all := slices.DeleteFunc(mutables(t), func(m mutable) bool { return !m.alone })
	name := filepath.Join(difftest.FastDir(t), "mutant.qcow2")
	counts := map[string]int{}
	for i := range difftest.Scale(t, 300) {
		m := &all[i%len(all)]
		b, what := m.make(random)
		im, err := qcow2.Open(bytes.NewReader(b), nil)
		if err != nil {
			counts["refused here"]++
			continue
		}
		writeFile(t, name, b)
		const n = 512
		args := []string{"-r", "-f", "qcow2", name}
		var offsets []int64
		for k := range min(im.Size()/n, 12) {
			off := im.Size() / n / 12 * k * n
			if im.Size() > 8<<20 && k < 8 {
				off = k * n * 40
			}
			offsets = append(offsets, off)
			args = append(args, "-c", fmt.Sprintf("read -v %d %d", off, n))
		}
		theirs := difftest.HexDumps(difftest.Try(t, io, args...).Stdout)
		for _, off := range offsets {
			got := make([]byte, n)
			_, err := im.ReadAt(got, off)
			want, ok := theirs[off]
			switch {
			case !ok:
				counts["not read by QEMU"]++
			case err != nil:
				t.Errorf("%s: at %d: %v", what, off, err)
			case !bytes.Equal(got, want):
				t.Errorf("%s: at %d: read %x… here, %x… by QEMU", what, off, got[:16], want[:16])
			default:
				counts["the same"]++
			}
		}
		im.Close()
	}
	for _, k := range slices.Sorted(maps.Keys(counts)) {
		t.Logf("%s: %d", k, counts[k])
	}
}
