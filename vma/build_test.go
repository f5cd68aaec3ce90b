package vma_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"iter"
	"math/rand/v2"
	"testing"

	"github.com/virtfmt/virtfmt/vma"
)

// A ram is a disk in memory whose zero blocks are known as such.
type ram []byte

func (r ram) Size() int64 { return int64(len(r)) }
func (r ram) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(r).ReadAt(p, off)
}
func (r ram) Extents(off, n int64) iter.Seq2[vma.Extent, error] {
	return func(yield func(vma.Extent, error) bool) {
		for end := min(off+n, r.Size()); off < end; {
			stop := min(off-off%vma.BlockSize+vma.BlockSize, end)
			e := vma.Extent{Start: off, Length: stop - off, Kind: vma.Data, HostOffset: off}
			if len(bytes.Trim(r[off:stop], "\x00")) == 0 {
				e.Kind, e.HostOffset = vma.Zero, vma.NoOffset
			}
			if !yield(e, nil) {
				return
			}
			off = stop
		}
	}
}

// opaque is a disk that does not know its zeros.
type opaque struct{ ram }

func (r opaque) Extents(off, n int64) iter.Seq2[vma.Extent, error] {
	return func(yield func(vma.Extent, error) bool) {
		yield(vma.Extent{Start: off, Length: min(n, r.Size()-off), Kind: vma.Data, HostOffset: off}, nil)
	}
}

// content returns size bytes of which about density of the blocks are not
// zero.
func content(seed uint64, size int, density float64) ram {
	r := rand.New(rand.NewPCG(seed, uint64(size)))
	b := make(ram, size)
	for off := 0; off < size; off += vma.BlockSize {
		if r.Float64() >= density {
			continue
		}
		p := b[off:min(off+vma.BlockSize, size)]
		switch r.IntN(4) {
		case 0:
			p[len(p)-1] = 1
		case 1:
			p[0] = 0x80
		default:
			for len(p) >= 8 {
				binary.LittleEndian.PutUint64(p, r.Uint64())
				p = p[8:]
			}
		}
	}
	return b
}

// testHeader has a fixed uuid and time.
func testHeader(devices ...vma.DeviceInfo) *vma.Header {
	return &vma.Header{
		UUID:    [16]byte{0: 0x11, 15: 0x22},
		CTime:   1700000000,
		Configs: []vma.Config{{Name: "qemu-server.conf", Data: []byte("memory: 512\n")}},
		Devices: devices,
	}
}

// mustBuild makes an archive of disks, named disk0 and so on, the last one
// vmstate where that is asked for.
func mustBuild(vmstate bool, disks ...ram) []byte {
	h := testHeader()
	for i, d := range disks {
		name := "disk" + string(rune('0'+i))
		if vmstate && i == len(disks)-1 {
			name = vma.VMStateName
		}
		h.Devices = append(h.Devices, vma.DeviceInfo{Name: name, Size: d.Size()})
	}
	var b bytes.Buffer
	w, err := vma.NewWriter(&b, h, nil)
	for i := 0; err == nil && i < len(disks); i++ {
		err = w.CopyFrom(context.Background(), uint8(i+1), disks[i], nil)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		panic(err)
	}
	return b.Bytes()
}

// build is mustBuild in a test.
func build(tb testing.TB, vmstate bool, disks ...ram) []byte {
	tb.Helper()
	return mustBuild(vmstate, disks...)
}
