package vma_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/vma"
)

// salvage opens a damaged archive and holds what it reads against the disks:
// a byte is right, or zero and reported. It returns how many bytes are lost.
func salvage(t *testing.T, b []byte, disks []ram) (lost int64) {
	t.Helper()
	o := &vma.Options{Profile: vma.Salvage, MaxFindings: 1 << 20}
	a, err := vma.Open(bytes.NewReader(b), o)
	if err != nil {
		t.Fatal(err)
	}
	r := a.Report()
	stream := salvageStream(t, b, o, disks)
	for i, disk := range disks {
		d := a.Device(r.Devices[i].Name)
		got := make([]byte, d.Size())
		if _, err := d.ReadAt(got, 0); err != nil && err != io.EOF {
			t.Fatal(err)
		}
		if !bytes.Equal(got, stream[d.Info().ID]) {
			t.Fatalf("device %d: a stream gives other bytes than a file", i)
		}
		gone := reported(t, d, r)
		for n := range gone {
			block := got[n*vma.BlockSize : min((n+1)*vma.BlockSize, len(got))]
			switch {
			case gone[n]:
				lost += int64(len(block))
				if len(bytes.Trim(block, "\x00")) > 0 {
					t.Fatalf("device %d block %d is lost, but not zero", i, n)
				}
			case !bytes.Equal(block, disk[n*vma.BlockSize:n*vma.BlockSize+len(block)]):
				t.Fatalf("device %d block %d is wrong and not reported; findings %v", i, n, errorsOf(r))
			}
		}
	}
	if (lost > 0) == r.OK() {
		t.Fatalf("%d bytes lost, the report says OK: %v", lost, r.OK())
	}
	return lost
}

// reported returns which blocks of a device the archive does not have: those
// of missing clusters, and those that findings call lost.
func reported(t *testing.T, d *vma.Device, r *vma.Report) []bool {
	t.Helper()
	gone := make([]bool, (d.Size()+vma.BlockSize-1)/vma.BlockSize)
	missing := int64(0)
	for e, err := range d.Extents(0, d.Size()) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind == vma.Unallocated {
			missing += (e.Length + vma.ClusterSize - 1) / vma.ClusterSize
			for n := e.Start / vma.BlockSize; n*vma.BlockSize < e.End(); n++ {
				gone[n] = true
			}
		}
	}
	listed := int64(0)
	for _, f := range r.Findings {
		if f.Device != d.Info().ID {
			continue
		}
		switch f.Code {
		case vma.CodeMissing, vma.CodeVMStateMissing:
			listed += f.Count
		case vma.CodeLost: // some of the last blocks of the cluster
			start := int64(f.Cluster) * vma.ClusterSize
			for e, err := range d.Extents(start, vma.ClusterSize) {
				if err != nil {
					t.Fatal(err)
				}
				for n := e.Start / vma.BlockSize; e.Kind == vma.Zero && n*vma.BlockSize < e.End(); n++ {
					gone[n] = true
				}
			}
		}
	}
	if missing != listed {
		t.Errorf("device %d: %d clusters are unallocated, findings name %d", d.Info().ID, missing, listed)
	}
	return gone
}

// salvageStream reads the same archive as a stream.
func salvageStream(t *testing.T, b []byte, o *vma.Options, disks []ram) map[uint8][]byte {
	t.Helper()
	rd, got := readStream(t, struct{ io.Reader }{bytes.NewReader(b)}, o)
	if rd.Report().Clusters == 0 && len(disks) > 0 {
		for i, d := range disks {
			got[uint8(i+1)] = make([]byte, d.Size())
		}
	}
	return got
}

var salvageDisks = []ram{content(11, 12<<20+10240, 0.2), content(12, 3<<20, 0.3), content(13, 1<<20+4096, 0.2)}

// TestSalvageDamage damages extent headers at random and in all ways.
func TestSalvageDamage(t *testing.T) {
	rnd := rand.New(rand.NewPCG(difftest.Seed(t, 1), 0))
	whole := build(t, true, salvageDisks...)
	extents := len(takeApart(whole).extents)
	all := int64(0)
	for _, d := range salvageDisks {
		all += d.Size()
	}
	for i := range difftest.Scale(t, 100) {
		p := takeApart(whole)
		kind := i % 7
		for _, n := range rnd.Perm(extents - 1)[:1+rnd.IntN(3)] { // cutting the last one is cutting the archive
			e := p.extents[n]
			switch kind {
			case 0: // one bit of a header
				e[rnd.IntN(512)] ^= 1 << rnd.IntN(8)
			case 1: // a header zeroed
				clear(e[:min(512, len(e))])
			case 2: // noise over a part of a header
				for range 8 {
					e[rnd.IntN(512)] = byte(rnd.Uint32())
				}
			case 3: // bytes gone
				at := rnd.IntN(len(e))
				p.extents[n] = append(e[:at:at], e[min(len(e), at+1+rnd.IntN(9000)):]...)
			case 4: // bytes put in, not a whole number of blocks
				at := rnd.IntN(len(e))
				p.extents[n] = append(e[:at:at], append(make([]byte, 4096*rnd.IntN(3)+1+rnd.IntN(4095)), e[at:]...)...)
			case 5: // an extent gone
				p.extents[n] = nil
			case 6: // an extent of another archive in its place
				e[8] ^= 0x55
				sign(e[:512], 24)
			}
			if kind > 2 {
				break
			}
		}
		lost := salvage(t, p.join(), salvageDisks)
		if kind == 0 && lost > 0 {
			t.Errorf("flipped bits of headers cost %d bytes", lost)
		}
		if lost > all*3/int64(extents)+8<<20 {
			t.Errorf("kind %d: lost %d of %d bytes", kind, lost, all)
		}
	}
}

// TestTruncated cuts an archive at every 512 bytes, or at a sample of them.
// Nobody takes it for whole, and a salvage reads what is left.
func TestTruncated(t *testing.T) {
	disks := []ram{content(21, 10<<16, 0.2), content(22, 5<<16+512, 0.2)}
	whole := build(t, true, disks...)
	cuts := len(whole) / 512
	step := 512 * max(1, cuts/difftest.Scale(t, cuts))
	for n := 0; n < len(whole); n += step {
		b := whole[:n]
		for _, p := range []vma.Profile{vma.Proxmox, vma.Strict} {
			r, err := vma.Verify(t.Context(), bytes.NewReader(b), &vma.Options{Profile: p})
			if err != nil || r.OK() {
				t.Fatalf("%d bytes: Verify as %v: %v, OK", n, p, err)
			}
			readingAgrees(t, b, p)
		}
		if n >= 12800 {
			salvage(t, b, disks)
		} else if _, err := vma.Open(bytes.NewReader(b), &vma.Options{Profile: vma.Salvage}); n < 12288 && err == nil {
			t.Fatalf("%d bytes: a header out of nothing", n)
		}
	}
}

// TestSalvageHeader opens archives whose header is damaged.
func TestSalvageHeader(t *testing.T) {
	disks := []ram{content(31, 3<<20, 0.3), content(32, 1<<20+4096, 0.3)}
	whole := build(t, true, disks...)
	for _, c := range []struct {
		name string
		do   func(b []byte)
	}{
		{"magic", func(b []byte) { b[0] = 'X' }},
		{"md5", func(b []byte) { clear(b[32:48]) }},
		{"uuid", func(b []byte) { b[10]++ }},
		{"size 0", func(b []byte) { clear(b[56:60]) }},
		{"size odd", func(b []byte) { b[58] = 1 }},
		{"size huge", func(b []byte) { b[56] = 0x7f }},
		{"ctime", func(b []byte) { b[28]++ }},
		{"reserved", func(b []byte) { b[99]++ }},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := bytes.Clone(whole)
			c.do(b)
			if err := openError(b, vma.Proxmox); err == nil {
				t.Error("opens without salvage")
			}
			salvageContent(t, b, disks)
		})
	}
	t.Run("all of it", func(t *testing.T) {
		b := bytes.Clone(whole)
		clear(b[:12288])
		a, err := vma.Open(bytes.NewReader(b), &vma.Options{Profile: vma.Salvage})
		if err != nil {
			t.Fatal(err)
		}
		for i, d := range a.Devices() {
			got := make([]byte, d.Size())
			if _, err := d.ReadAt(got, 0); err != nil && err != io.EOF {
				t.Fatal(err)
			}
			if n := len(disks[i]); !bytes.Equal(got[:n], disks[i]) || len(got) >= n+vma.ClusterSize {
				t.Errorf("device %s of %d bytes is not disk %d", d.Name(), len(got), i)
			}
		}
	})
}

func openError(b []byte, p vma.Profile) error {
	_, err := vma.Open(bytes.NewReader(b), &vma.Options{Profile: p})
	return err
}

// salvageContent tests that a salvage of b reads the disks whole.
func salvageContent(t *testing.T, b []byte, disks []ram) {
	t.Helper()
	a, err := vma.Open(bytes.NewReader(b), &vma.Options{Profile: vma.Salvage})
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range a.Devices() {
		got := make([]byte, d.Size())
		if _, err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got, disks[i]) {
			t.Errorf("device %s: %v, or other bytes", d.Name(), err)
		}
	}
}
