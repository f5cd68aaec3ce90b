package vma_test

import (
	"bytes"
	"crypto/md5"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/golden"
	"github.com/virtfmt/virtfmt/vma"
)

// A parts is an archive taken apart, to be changed and put together again.
type parts struct {
	header  []byte
	extents [][]byte
	tail    []byte
}

func takeApart(b []byte) *parts {
	b = bytes.Clone(b)
	n := binary.BigEndian.Uint32(b[56:])
	p := &parts{header: b[:n:n]}
	for b = b[n:]; len(b) > 0; {
		n := 512 + 4096*int(binary.BigEndian.Uint16(b[6:]))
		p.extents = append(p.extents, b[:n:n])
		b = b[n:]
	}
	return p
}

func (p *parts) join() []byte {
	return bytes.Join([][]byte{p.header, bytes.Join(p.extents, nil), p.tail}, nil)
}

// sign makes the checksum of a header right: its field is at off.
func sign(b []byte, off int) {
	clear(b[off : off+16])
	sum := md5.Sum(b)
	copy(b[off:], sum[:])
}

func (p *parts) sign() *parts {
	if n := int(binary.BigEndian.Uint32(p.header[56:])); n >= 12288 && n <= len(p.header) {
		sign(p.header[:n], 32)
	} else {
		sign(p.header, 32)
	}
	for _, e := range p.extents {
		if len(e) >= 512 {
			sign(e[:512], 24)
		}
	}
	return p
}

func (p *parts) put32(off int, v uint32) { binary.BigEndian.PutUint32(p.header[off:], v) }
func (p *parts) put64(off int, v uint64) { binary.BigEndian.PutUint64(p.header[off:], v) }
func (p *parts) get32(off int) uint32    { return binary.BigEndian.Uint32(p.header[off:]) }

// slot returns slot i of extent e.
func (p *parts) slot(e, i int) (mask uint16, dev uint8, num uint32) {
	b := p.extents[e][40+8*i:]
	return binary.BigEndian.Uint16(b), b[3], binary.BigEndian.Uint32(b[4:])
}

func (p *parts) setSlot(e, i int, mask uint16, dev uint8, num uint32) {
	b := p.extents[e][40+8*i:]
	binary.BigEndian.PutUint16(b, mask)
	b[3] = dev
	binary.BigEndian.PutUint32(b[4:], num)
}

// find returns where a cluster is.
func (p *parts) find(dev uint8, num uint32) (e, i int) {
	for e := range p.extents {
		for i := range 59 {
			if _, d, n := p.slot(e, i); d == dev && n == num {
				return e, i
			}
		}
	}
	panic("no such cluster")
}

// renumber gives a cluster another device and number.
func (p *parts) renumber(dev uint8, num uint32, newDev uint8, newNum uint32) {
	e, i := p.find(dev, num)
	mask, _, _ := p.slot(e, i)
	p.setSlot(e, i, mask, newDev, newNum)
}

// rename replaces the blob that the pointer at off leads to, of the same
// length.
func (p *parts) rename(off int, text string) {
	at := 12288 + int(p.get32(off))
	n := int(binary.LittleEndian.Uint16(p.header[at:]))
	copy(p.header[at+2:at+2+n], text+strings.Repeat("\x00", n))
}

func emptyExtent(p *parts) []byte {
	e := make([]byte, 512)
	copy(e, "VMAE")
	copy(e[8:24], p.header[8:24])
	return e
}

const devEntry = 4096 // device i is at devEntry + 32*i

type mutation struct {
	name string
	do   func(p *parts)
	raw  bool // leave checksums as they are
}

// mutations change an archive of three devices: disk0 has 140 clusters, the
// last of them short with 2.5 blocks, disk1 three whole clusters, disk0's
// cluster 139 and disk1's cluster 2 empty; vmstate 4 clusters, the last short.
// Their checksums are made right afterwards, except of the raw ones.
var mutations = []mutation{
	{name: "none", do: func(p *parts) {}},
	// The header.
	{name: "magic", do: func(p *parts) { p.header[3] = 1 }},
	{name: "version 0", do: func(p *parts) { p.put32(4, 0) }},
	{name: "version 2", do: func(p *parts) { p.put32(4, 2) }},
	{name: "header md5", do: func(p *parts) { p.header[33] ^= 1 }, raw: true},
	{name: "header bit", do: func(p *parts) { p.header[12290] ^= 1 }, raw: true},
	{name: "uuid of the header", do: func(p *parts) { p.header[8] ^= 1 }},
	{name: "negative ctime", do: func(p *parts) { p.put64(24, 1<<63) }},
	{name: "header size 0", do: func(p *parts) { p.put32(56, 0) }},
	{name: "header size 12288", do: func(p *parts) { p.put32(56, 12288) }},
	{name: "header size 12289", do: func(p *parts) { p.put32(56, 12289) }},
	{name: "header size negative", do: func(p *parts) { p.put32(56, 0x80003000) }},
	{name: "header size past the end", do: func(p *parts) { p.put32(56, 60<<20) }},
	{name: "header size over an extent", do: func(p *parts) { p.put32(56, p.get32(56)+512) }},
	{name: "blob offset low", do: func(p *parts) { p.put32(48, 12287) }},
	{name: "blob offset 0", do: func(p *parts) { p.put32(48, 0) }},
	{name: "blob offset max", do: func(p *parts) { p.put32(48, 1<<32-1) }},
	{name: "blob offset one on", do: func(p *parts) { p.put32(48, 12289); p.put32(52, p.get32(52)-1) }},
	{name: "blob size 0", do: func(p *parts) { p.put32(52, 0) }},
	{name: "blob size padded", do: func(p *parts) { p.put32(52, 512) }},
	{name: "blob size past the header", do: func(p *parts) { p.put32(52, 513) }},
	{name: "blob size short", do: func(p *parts) { p.put32(52, p.get32(52)-1) }},
	{name: "blob size wraps", do: func(p *parts) { p.put32(52, 1<<32-1) }},
	{name: "blob size wraps past", do: func(p *parts) { p.put32(48, 1<<32-16); p.put32(52, 40000) }},
	{name: "blob overrun unused", do: func(p *parts) {
		n := p.get32(52)
		copy(p.header[12288+n:], "\xff\x00")
		p.put32(52, n+2)
	}},
	{name: "blob dummy", do: func(p *parts) { p.header[12288] = 7 }},
	{name: "blob big-endian", do: func(p *parts) { p.header[12289], p.header[12290] = 0, p.header[12289] }},
	{name: "config name dangling", do: func(p *parts) { p.put32(2044, 400) }},
	{name: "config data dangling", do: func(p *parts) { p.put32(3068, 1<<31) }},
	{name: "config inside a blob", do: func(p *parts) { p.put32(2044, p.get32(2044)+1) }},
	{name: "config without name", do: func(p *parts) { p.put32(2044, 0) }},
	{name: "config without data", do: func(p *parts) { p.put32(3068, 0) }},
	{name: "config in slot 255", do: func(p *parts) {
		p.put32(2044+4*255, p.get32(2044))
		p.put32(3068+4*255, p.get32(3068))
		p.put32(2044, 0)
		p.put32(3068, 0)
	}},
	{name: "config twice", do: func(p *parts) {
		p.put32(2044+4*9, p.get32(2044))
		p.put32(3068+4*9, p.get32(3068))
	}},
	{name: "config name is data", do: func(p *parts) { p.put32(2044, p.get32(3068)) }},
	{name: "config name with slash", do: func(p *parts) { p.rename(2044, "../../etc/passwd") }},
	{name: "config name absolute", do: func(p *parts) { p.rename(2044, "/etc/passwd") }},
	{name: "config name backslash", do: func(p *parts) { p.rename(2044, `a\b`) }},
	{name: "config name ..", do: func(p *parts) { p.rename(2044, "..") }},
	{name: "config name empty", do: func(p *parts) { p.rename(2044, "") }},
	{name: "config name control", do: func(p *parts) { p.rename(2044, "a\nb") }},
	{name: "config name latin1", do: func(p *parts) { p.rename(2044, "a\xe4b") }},
	{name: "config name utf8", do: func(p *parts) { p.rename(2044, "aäb") }},
	{name: "config name text after nul", do: func(p *parts) { p.rename(2044, "a\x00b") }},
	{name: "device size 0", do: func(p *parts) { p.put64(devEntry+32+8, 0) }},
	{name: "device name 0", do: func(p *parts) { p.put32(devEntry+32, 0) }},
	{name: "device name dangling", do: func(p *parts) { p.put32(devEntry+32, 400) }},
	{name: "device name only", do: func(p *parts) { p.put32(devEntry+32*7, p.get32(devEntry+32)) }},
	{name: "device without clusters", do: func(p *parts) {
		p.put32(devEntry+32*7, p.get32(devEntry+32))
		p.put64(devEntry+32*7+8, 65536)
	}},
	{name: "device names equal", do: func(p *parts) { p.put32(devEntry+64, p.get32(devEntry+32)) }},
	{name: "device name unsafe", do: func(p *parts) { p.rename(devEntry+32, "a/b") }},
	{name: "device name ..", do: func(p *parts) { p.rename(devEntry+32, "..") }},
	{name: "device becomes vmstate", do: func(p *parts) { p.put32(devEntry+64, p.get32(devEntry+96)) }},
	{name: "vmstate becomes a device", do: func(p *parts) { p.rename(devEntry+96, "disk2") }},
	{name: "device 0", do: func(p *parts) { copy(p.header[devEntry:], p.header[devEntry+32:devEntry+64]) }},
	{name: "device 255 unused", do: func(p *parts) { copy(p.header[devEntry+32*255:], p.header[devEntry+64:devEntry+96]) }},
	{name: "device moves to 255", do: func(p *parts) {
		copy(p.header[devEntry+32*255:], p.header[devEntry+64:devEntry+96])
		clear(p.header[devEntry+64 : devEntry+96])
		for n := range uint32(3) {
			p.renumber(2, n, 255, n)
		}
	}},
	{name: "device grows", do: func(p *parts) { p.put64(devEntry+64+8, 4*65536) }},
	{name: "device grows a byte", do: func(p *parts) { p.put64(devEntry+64+8, 3*65536+1) }},
	{name: "device shrinks by an empty cluster", do: func(p *parts) { p.put64(devEntry+64+8, 2*65536) }},
	{name: "device shrinks into a cluster", do: func(p *parts) { p.put64(devEntry+64+8, 2*65536-4096) }},
	{name: "device shrinks into a block", do: func(p *parts) { p.put64(devEntry+64+8, 65536+4096*3+100) }},
	{name: "device of 300 bytes", do: func(p *parts) { p.put64(devEntry+64+8, 300) }},
	{name: "device of 65836 bytes", do: func(p *parts) {
		p.put64(devEntry+64+8, 65836)
		e, i := p.find(2, 2)
		p.setSlot(e, i, 0, 0, 0)
	}},
	{name: "vmstate grows", do: func(p *parts) { p.put64(devEntry+96+8, 5*65536) }},
	{name: "vmstate shrinks", do: func(p *parts) { p.put64(devEntry+96+8, 65536) }},
	{name: "device shrinks past its bitmap", do: func(p *parts) { p.put64(devEntry+32+8, 64*65536) }},
	{name: "reserved after header size", do: func(p *parts) { p.header[60] = 1 }},
	{name: "reserved before devices", do: func(p *parts) { p.header[4095] = 1 }},
	{name: "reserved of a device", do: func(p *parts) { p.header[devEntry+32+4] = 1 }},
	{name: "reserved end of a device", do: func(p *parts) { p.header[devEntry+32+31] = 1 }},
	// Extents.
	{name: "extent magic", do: func(p *parts) { p.extents[1][0] = 'v' }},
	{name: "extent md5", do: func(p *parts) { p.extents[1][30] ^= 4 }, raw: true},
	{name: "extent uuid", do: func(p *parts) { p.extents[1][8] ^= 1 }},
	{name: "extent reserved", do: func(p *parts) { p.extents[1][5] = 1 }},
	{name: "extent bit", do: func(p *parts) { p.extents[1][47] ^= 1 }, raw: true},
	{name: "extent zeroed", do: func(p *parts) { clear(p.extents[1][:512]) }, raw: true},
	{name: "extent data", do: func(p *parts) { p.extents[1][5000] ^= 1 }},
	{name: "block count low", do: func(p *parts) { p.extents[0][7]-- }},
	{name: "block count high", do: func(p *parts) { p.extents[0][7]++ }},
	{name: "block count 945", do: func(p *parts) { binary.BigEndian.PutUint16(p.extents[2][6:], 945) }},
	{name: "block count max", do: func(p *parts) { binary.BigEndian.PutUint16(p.extents[1][6:], 0xffff) }},
	{name: "blocks without a slot", do: func(p *parts) {
		p.extents[1] = append(p.extents[1], make([]byte, 4096)...)
		p.extents[1][7]++
	}},
	{name: "extent dropped first", do: func(p *parts) { p.extents = p.extents[1:] }},
	{name: "extent dropped middle", do: func(p *parts) { p.extents = append(p.extents[:1], p.extents[2:]...) }},
	{name: "extent dropped last", do: func(p *parts) { p.extents = p.extents[:len(p.extents)-1] }},
	{name: "extents dropped all", do: func(p *parts) { p.extents = nil }},
	{name: "extent twice", do: func(p *parts) { p.extents = append(p.extents, p.extents[0]) }},
	{name: "extents reversed", do: func(p *parts) { p.extents[0], p.extents[1] = p.extents[1], p.extents[0] }},
	{name: "extent empty first", do: func(p *parts) { p.extents = append([][]byte{emptyExtent(p)}, p.extents...) }},
	{name: "extent empty last", do: func(p *parts) { p.extents = append(p.extents, emptyExtent(p)) }},
	{name: "trailing byte", do: func(p *parts) { p.tail = []byte{0} }},
	{name: "trailing zeros", do: func(p *parts) { p.tail = make([]byte, 512) }},
	{name: "trailing block of zeros", do: func(p *parts) { p.tail = make([]byte, 4096) }},
	{name: "trailing text", do: func(p *parts) { p.tail = bytes.Repeat([]byte("x"), 700) }},
	{name: "trailing magic", do: func(p *parts) { p.tail = []byte("VMAE") }},
	{name: "cut in a header", do: func(p *parts) { p.extents[2] = p.extents[2][:100] }},
	{name: "cut in a block", do: func(p *parts) { p.extents[2] = p.extents[2][:len(p.extents[2])-1] }},
	{name: "cut before a block", do: func(p *parts) { p.extents[2] = p.extents[2][:len(p.extents[2])-4096] }},
	{name: "cut out of the middle", do: func(p *parts) { p.extents[1] = append(p.extents[1][:9000], p.extents[1][20000:]...) }},
	{name: "put into the middle", do: func(p *parts) {
		p.extents[1] = append(p.extents[1][:9000:9000], append(make([]byte, 777), p.extents[1][9000:]...)...)
	}},
	{name: "junk between extents", do: func(p *parts) { p.extents[0] = append(p.extents[0], "junk"...) }},
	{name: "cut in the blobs", do: func(p *parts) { p.header, p.extents = p.header[:12300], nil }, raw: true},
	{name: "cut in the header", do: func(p *parts) { p.header, p.extents = p.header[:5000], nil }, raw: true},
	{name: "cut in the magic", do: func(p *parts) { p.header, p.extents = p.header[:3], nil }, raw: true},
	{name: "nothing", do: func(p *parts) { p.header, p.extents = nil, nil }, raw: true},
	// Slots.
	{name: "slot reserved", do: func(p *parts) { p.extents[0][42] = 9 }},
	{name: "slot unused with mask", do: func(p *parts) { p.setSlot(2, 58, 0xff, 0, 3) }},
	{name: "slot unused between", do: func(p *parts) {
		e, i := p.find(2, 2)
		p.setSlot(e, i, 0x101, 0, 2)
	}},
	{name: "device unknown", do: func(p *parts) { p.renumber(2, 2, 9, 2) }},
	{name: "device unknown with blocks", do: func(p *parts) { p.renumber(2, 1, 9, 2) }},
	{name: "device 255 unknown", do: func(p *parts) { p.renumber(2, 2, 255, 2) }},
	{name: "cluster far away", do: func(p *parts) { p.renumber(1, 5, 1, 1<<32-1) }},
	{name: "cluster far away empty", do: func(p *parts) { p.renumber(2, 2, 2, 1<<32-1) }},
	{name: "cluster past the end", do: func(p *parts) { p.renumber(2, 1, 2, 3) }},
	{name: "cluster past the end empty", do: func(p *parts) { p.renumber(2, 2, 2, 3) }},
	{name: "padding", do: func(p *parts) { p.setSlot(2, 58, 0, 2, 63) }},
	{name: "padding past the bitmap", do: func(p *parts) { p.setSlot(2, 58, 0, 2, 64) }},
	{name: "padding twice", do: func(p *parts) { p.setSlot(2, 58, 0, 2, 5); p.setSlot(2, 57, 0, 2, 5) }},
	{name: "duplicate", do: func(p *parts) { p.renumber(1, 5, 1, 6) }},
	{name: "duplicate empty", do: func(p *parts) { p.setSlot(2, 58, 0, 2, 2) }},
	{name: "clusters swapped", do: func(p *parts) {
		p.renumber(1, 5, 1, 1000)
		p.renumber(1, 6, 1, 5)
		p.renumber(1, 1000, 1, 6)
	}},
	{name: "devices swapped", do: func(p *parts) {
		p.renumber(1, 0, 2, 1000)
		p.renumber(2, 0, 1, 0)
		p.renumber(2, 1000, 2, 0)
	}},
	{name: "tail whole", do: func(p *parts) { p.whole(1, 139) }},
	{name: "tail past the end", do: func(p *parts) {
		e, i := p.find(1, 139)
		p.setSlot(e, i, 0x8, 1, 139)
		p.insert(e, i, 1)
	}},
	{name: "tail in the last block", do: func(p *parts) {
		e, i := p.find(1, 139)
		p.setSlot(e, i, 0x4, 1, 139)
		p.insert(e, i, 1)
	}},
	{name: "cluster stored as zeros", do: func(p *parts) { p.whole(2, 2) }},
	{name: "vmstate swapped", do: func(p *parts) {
		p.renumber(3, 1, 3, 1000)
		p.renumber(3, 2, 3, 1)
		p.renumber(3, 1000, 3, 2)
	}},
	{name: "vmstate gap", do: func(p *parts) {
		e, i := p.find(3, 1)
		p.drop(e, i)
	}},
	{name: "vmstate twice", do: func(p *parts) { p.renumber(3, 1, 3, 0) }},
	{name: "vmstate first missing", do: func(p *parts) {
		e, i := p.find(3, 0)
		p.drop(e, i)
	}},
	{name: "vmstate last missing", do: func(p *parts) {
		e, i := p.find(3, 3)
		p.drop(e, i)
	}},
	{name: "vmstate past its size", do: func(p *parts) { p.setSlot(2, 58, 0, 3, 4) }},
	{name: "cluster missing", do: func(p *parts) {
		e, i := p.find(1, 70)
		p.drop(e, i)
	}},
	{name: "empty cluster missing", do: func(p *parts) {
		e, i := p.find(2, 2)
		p.drop(e, i)
	}},
}

// blocksBefore returns the offset in extent e of the blocks of slot i.
func (p *parts) blocksBefore(e, i int) int {
	off := 512
	for j := range i {
		mask, dev, _ := p.slot(e, j)
		for ; dev != 0 && mask != 0; mask &= mask - 1 {
			off += 4096
		}
	}
	return off
}

// insert puts n zero blocks where those of slot i begin.
func (p *parts) insert(e, i, n int) {
	off, b := p.blocksBefore(e, i), p.extents[e]
	b = append(b[:off:off], append(make([]byte, n*4096), b[off:]...)...)
	binary.BigEndian.PutUint16(b[6:], binary.BigEndian.Uint16(b[6:])+uint16(n))
	p.extents[e] = b
}

// whole stores an empty cluster as 16 blocks.
func (p *parts) whole(dev uint8, num uint32) {
	e, i := p.find(dev, num)
	p.setSlot(e, i, 0xffff, dev, num)
	p.insert(e, i, 16)
}

// drop removes the cluster of slot i.
func (p *parts) drop(e, i int) {
	off, b := p.blocksBefore(e, i), p.extents[e]
	n := p.blocksBefore(e, i+1) - off
	b = append(b[:off:off], b[off+n:]...)
	binary.BigEndian.PutUint16(b[6:], binary.BigEndian.Uint16(b[6:])-uint16(n/4096))
	p.extents[e] = b
	p.setSlot(e, i, 0, 0, 0)
}

// mutant returns the archive that a mutation makes.
func mutant(tb testing.TB, name string) []byte {
	tb.Helper()
	i := slices.IndexFunc(mutations, func(m mutation) bool { return m.name == name })
	p := takeApart(mutantBase())
	mutations[i].do(p)
	if !mutations[i].raw {
		p.sign()
	}
	return p.join()
}

var mutantBase = sync.OnceValue(func() []byte {
	disk0 := content(1, 139*65536+10240, 0.04)
	clear(disk0[139*65536:])
	disk1 := content(2, 3*65536, 1)
	clear(disk1[2*65536:])
	return mustBuild(true, disk0, disk1, content(3, 3*65536+4096, 0.6))
})

// verdicts is testdata/verdicts.txt: what the oracle says of the mutants.
const verdicts = "verdicts.txt"

// TestMutantsAgainstOracle has the oracle judge the mutants, and compares with
// what is written down of it.
func TestMutantsAgainstOracle(t *testing.T) {
	o := newOracle(t)
	dir := t.TempDir()
	args := []string{"-B", "-c", `
import sys, json
sys.path.insert(0, "testdata")
import vma_oracle
print(json.dumps([vma_oracle.judge_file(f) for f in sys.argv[1:]]))`}
	for i, c := range mutations {
		path := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(path, mutant(t, c.name), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, path)
	}
	var all []verdict
	if err := json.Unmarshal(difftest.Run(t, o.python, args...), &all); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for i, c := range mutations {
		fmt.Fprintf(&b, "%s | %s | %s | %s\n", c.name, all[i].Verify, all[i].Extract, all[i].Strict)
	}
	golden.Text(t, verdicts, b.String())
}

// TestMutants compares what Verify says of each mutant with the oracle, as a
// file and as a stream, and that reading agrees with Verify.
func TestMutants(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", verdicts))
	if err != nil {
		t.Fatal(err)
	}
	want := make(map[string]verdict)
	for line := range strings.Lines(string(text)) {
		f := strings.Split(strings.TrimSpace(line), " | ")
		want[f[0]] = verdict{f[1], f[2], f[3]}
	}
	for _, m := range mutations {
		t.Run(m.name, func(t *testing.T) {
			v, ok := want[m.name]
			if !ok {
				t.Fatal("not in " + verdicts)
			}
			b := mutant(t, m.name)
			compareVerdicts(t, b, v)
			for _, p := range []vma.Profile{vma.Proxmox, vma.Strict} {
				readingAgrees(t, b, p)
			}
		})
	}
}
