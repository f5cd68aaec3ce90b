package qcow2_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/internal/mutant"
	"github.com/virtfmt/virtfmt/qcow2"
)

// A craft is a change of the header of an image that QEMU had a CVE for, or
// of what its tables say.
type craft struct {
	name string
	do   func(e *editor)
	want error // of Open or OpenRW, nil: any, also none
}

// cves are the vulnerabilities of QEMU's image formats that are reached
// through one image. Those of other formats than qcow2 are tried by what is
// like them here.
var cves = map[string][]craft{
	// A division by a geometry of 0 (Parallels).
	"CVE-2014-0142": {
		{"clusters of 1 byte", func(e *editor) { e.put32(20, 0) }, errAny},
		{"no L1 table", func(e *editor) { e.put32(36, 0) }, errAny},
		{"no refcount table", func(e *editor) { e.put32(56, 0) }, errAny},
		{"a disk of 0 bytes", func(e *editor) { e.put64(24, 0) }, nil},
	},
	// Sizes that overflow before memory is taken for them.
	"CVE-2014-0143": {
		{"nb_snapshots", func(e *editor) { e.put32(60, 0xffffffff) }, qcow2.ErrLimit},
		{"nb_snapshots of 65537", func(e *editor) { e.put32(60, 65537) }, qcow2.ErrLimit},
		{"l1_size", func(e *editor) { e.put32(36, 0x7fffffff) }, qcow2.ErrLimit},
		{"l1_size that is 0 times 8 in 32 bits", func(e *editor) { e.put32(36, 0x20000000) }, qcow2.ErrLimit},
		{"size", func(e *editor) { e.put64(24, 1<<63-1) }, errAny},
		{"negative size", func(e *editor) { e.put64(24, 1<<63) }, errAny},
	},
	// Fields that are used before they are looked at.
	"CVE-2014-0144": {
		{"cluster_bits 63", func(e *editor) { e.put32(20, 63) }, errAny},
		{"cluster_bits 8", func(e *editor) { e.put32(20, 8) }, errAny},
		{"header_length", func(e *editor) { e.put32(100, 0xfffffff8) }, errAny},
		{"header_length past the cluster", func(e *editor) { e.put32(100, 4096+8) }, errAny},
		{"backing_file_offset", func(e *editor) { e.put64(8, 1<<63-8); e.put32(16, 8) }, errAny},
		{"backing_file_size", func(e *editor) { e.put64(8, 128); e.put32(16, 0xffffffff) }, errAny},
		{"extension of 4 GiB", func(e *editor) { e.put32(int64(112), qcow2.ExtensionFeatureNames); e.put32(116, 0xffffffff) }, errAny},
		{"refcount table of 2^28 clusters", func(e *editor) { e.put32(56, 1<<28) }, qcow2.ErrLimit},
		{"refcount table between clusters", func(e *editor) { e.put64(48, 4096+512) }, errAny},
		{"refcount table at 2^63", func(e *editor) { e.put64(48, 1<<63) }, errAny},
		{"L1 table between clusters", func(e *editor) { e.put64(40, 4096+512) }, errAny},
		{"L1 table at 2^63", func(e *editor) { e.put64(40, 1<<63-4096) }, nil},
		{"snapshot table between clusters", func(e *editor) { e.put64(64, 4096+512) }, errAny},
		{"snapshot table at 2^63", func(e *editor) { e.put64(64, 1<<63-4096) }, nil},
		{"refcount_order 7", func(e *editor) { e.put32(96, 7) }, errAny},
		{"L1 table too small for the disk", func(e *editor) { e.put64(24, 1<<40) }, errAny},
	},
	// A snapshot whose L1 table is larger than the memory for it.
	"CVE-2014-0145": {
		{"L1 table of a snapshot of 32 GiB", func(e *editor) { e.put32(e.snapshotEntry(0)+8, 0xffffffff) }, nil},
		{"L1 table of a snapshot of 4 Mi entries", func(e *editor) { e.put32(e.snapshotEntry(0)+8, 4<<20) }, nil},
		{"L1 table of a snapshot at 2^63", func(e *editor) { e.put64(e.snapshotEntry(0), 1<<63-4096) }, nil},
		{"disk of a snapshot of 2^63 bytes", func(e *editor) { e.put64(e.snapshotEntry(0)+48, 1<<63-512) }, nil},
	},
	// Using what was not allocated after opening failed half-way.
	"CVE-2014-0146": {
		{"unaligned snapshot table, L1 entries", func(e *editor) { e.put64(64, 1); e.put32(60, 1) }, errAny},
		{"unknown incompatible feature", func(e *editor) { e.put64(72, 1<<40) }, errors.ErrUnsupported},
		{"unknown encryption", func(e *editor) { e.put32(32, 77) }, errAny},
	},
	// Offsets and counts in types that are too small for them.
	"CVE-2014-0147": {
		{"refcount block at the end of 64 bits", func(e *editor) { e.put64(e.refTable, ^uint64(511)) }, nil},
		{"refcount block at 2^56", func(e *editor) { e.put64(e.refTable, 1<<56) }, nil},
		{"L2 table at 2^55", func(e *editor) { e.put64(e.l1, 1<<63|1<<55) }, nil},
		{"cluster at 2^55", func(e *editor) { e.put64(e.l2(70), 1<<63|1<<55) }, nil},
		{"compressed cluster at the end of its bits", func(e *editor) { e.put64(e.l2(70), 1<<62|(1<<62-1)) }, nil},
	},
	// A loop without end (VHDX): tables that are their own entries.
	"CVE-2014-0148": {
		{"an L2 table that is the L1 table", func(e *editor) { e.put64(e.l1, 1<<63|uint64(e.l1)) }, nil},
		{"a refcount block that is the refcount table", func(e *editor) { e.put64(e.refTable, uint64(e.refTable)) }, nil},
		{"a guest cluster that is its L2 table", func(e *editor) { e.put64(e.l2(70), 1<<63|uint64(e.table(e.l1))) }, nil},
	},
	// L2 tables and disks of version 1, which is another format.
	"CVE-2014-0222": {{"version 1", func(e *editor) { e.put32(4, 1) }, errAny}},
	"CVE-2014-0223": {{"version 1 of 2^63 bytes", func(e *editor) { e.put32(4, 1); e.put64(24, 1<<63) }, errAny}},
}

var errAny = errors.New("any error")

// TestCVEs opens, reads, checks, writes and repairs an image for each
// vulnerability.
func TestCVEs(t *testing.T) {
	for cve, list := range cves {
		t.Run(cve, func(t *testing.T) {
			for _, c := range list {
				e := edit(image(t, "v3"))
				c.do(e)
				_, err := qcow2.Open(bytes.NewReader(e.b), nil)
				_, errRW := qcow2.OpenRW(memfile.FromBytes(e.b), nil)
				if err == nil { // as without a refcount table
					err = errRW
				}
				if c.want == errAny && err == nil || c.want != nil && c.want != errAny && !errors.Is(err, c.want) {
					t.Errorf("%s: %v, want %v", c.name, err, c.want)
				}
				tryMutant(t, &mutable{name: "v3"}, e.b, c.name, new(mutant.Stats), rand.New(rand.NewPCG(1, 1)))
			}
		})
	}
}

// withDataFile returns the image b, which has a data file, with another name
// of that.
func withDataFile(tb testing.TB, b []byte, name string) []byte {
	tb.Helper()
	h := decodeHeader(tb, b)
	for i := range h.Extensions {
		if h.Extensions[i].Type == qcow2.ExtensionDataFile {
			h.Extensions[i].Data = []byte(name)
		}
	}
	head, err := h.AppendBinary(nil)
	if err != nil {
		tb.Fatal(err)
	}
	return append(head, b[len(head):]...)
}

// TestCVEsOfNames: an image that names a file of the host as its backing or
// data file gets nothing of it: CVE-2024-32498 and CVE-2024-40767 (data files,
// also in a backing file), CVE-2024-44082 (backing files), CVE-2024-4467 (data
// files by json: names), CVE-2026-24708 (a raw disk into which a guest wrote a
// header).
func TestCVEsOfNames(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	secret := filepath.Join(outside, "secret")
	writeFile(t, secret, bytes.Repeat([]byte("secret"), 20000))
	external := samples(t)["data"].image
	refused := func(t *testing.T, name string) {
		t.Helper()
		for _, o := range []*qcow2.Options{nil, {Root: openRoot(t, dir)}} {
			path := filepath.Join(dir, name)
			if o != nil {
				path = name
			}
			if im, err := qcow2.OpenFile(path, o); err == nil {
				im.Close()
				t.Errorf("%s was opened", name)
			}
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := qcow2.Open(bytes.NewReader(b), nil); err == nil {
				t.Errorf("%s was opened", name)
			}
			// Looking at it is safe.
			im, err := qcow2.OpenFile(path, &qcow2.Options{MetadataOnly: true})
			if path == name {
				im, err = qcow2.OpenFile(path, &qcow2.Options{MetadataOnly: true, Root: o.Root})
			}
			if err != nil {
				t.Error(err)
				continue
			}
			if n, err := im.ReadAt(make([]byte, 10), 0); n > 0 || !errors.Is(err, qcow2.ErrMetadataOnly) {
				t.Errorf("read %d bytes, %v", n, err)
			}
			im.Close()
		}
	}
	for _, cve := range []string{"CVE-2024-32498", "CVE-2024-40767"} {
		t.Run(cve, func(t *testing.T) {
			writeFile(t, filepath.Join(dir, "data.qcow2"), withDataFile(t, external, secret))
			refused(t, "data.qcow2")
			writeFile(t, filepath.Join(dir, "over.qcow2"), overlay(t, "data.qcow2", "qcow2"))
			refused(t, "over.qcow2")
		})
	}
	t.Run("CVE-2024-44082", func(t *testing.T) {
		for _, format := range []string{"raw", "qcow2", ""} {
			writeFile(t, filepath.Join(dir, "backing.qcow2"), overlay(t, secret, format))
			refused(t, "backing.qcow2")
		}
	})
	t.Run("CVE-2024-4467", func(t *testing.T) {
		writeFile(t, filepath.Join(dir, "json.qcow2"), withDataFile(t, external, `json:{"driver":"file","filename":"`+secret+`"}`))
		refused(t, "json.qcow2")
	})
	t.Run("CVE-2026-24708", func(t *testing.T) {
		// What the guest wrote to its raw disk is its content, not a header.
		writeFile(t, filepath.Join(dir, "disk.raw"), overlay(t, secret, "raw"))
		writeFile(t, filepath.Join(dir, "over.qcow2"), overlay(t, "disk.raw", "raw"))
		im, err := qcow2.OpenFile("over.qcow2", &qcow2.Options{Root: openRoot(t, dir)})
		if err != nil {
			t.Fatal(err)
		}
		defer im.Close()
		p := make([]byte, 4)
		if _, err := im.ReadAt(p, 0); err != nil || binary.BigEndian.Uint32(p) != 0x514649fb {
			t.Errorf("%x, %v", p, err)
		}
	})
}
