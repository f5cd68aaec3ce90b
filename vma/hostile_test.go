package vma_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"runtime"
	"testing"
	"time"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/vma"
)

const (
	hostileMemory = 64 << 20
	hostileTime   = 30 * time.Second // the limit is one second; the machine may be busy
)

// hostileArchives are about 1 MiB each and made to cost as much as can be.
func hostileArchives(t *testing.T) map[string][]byte {
	n := min(2000, difftest.Scale(t, 2000))
	h := testHeader()
	for i := range 254 {
		h.Devices = append(h.Devices, vma.DeviceInfo{ID: uint8(i + 1), Name: fmt.Sprint(i), Size: vma.MaxDeviceSize})
	}
	header, err := h.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	extents := func(n int, slot func(i int) uint64) []byte {
		b := bytes.Clone(header)
		for e := range n {
			x := make([]byte, 512)
			copy(x, "VMAE")
			copy(x[8:], h.UUID[:])
			for i := range 59 {
				binary.BigEndian.PutUint64(x[40+8*i:], slot(e*59+i))
			}
			sign(x, 24)
			b = append(b, x...)
		}
		return b
	}
	repeat := func(s string, n int) []byte { return append(bytes.Clone(header), bytes.Repeat([]byte(s), n)...) }
	damaged := extents(n, func(int) uint64 { return 1 << 32 })
	for at := len(header); at < len(damaged); at += 512 {
		copy(damaged[at+100:], "damaged")
	}
	blobs := bytes.Clone(header)
	blobs = append(blobs, make([]byte, 1<<20)...)
	binary.BigEndian.PutUint32(blobs[52:], uint32(len(blobs)-12288))
	binary.BigEndian.PutUint32(blobs[56:], uint32(len(blobs)))
	sign(blobs, 32)
	uuid := bytes.Clone(repeat("VMAE", 1<<18))
	copy(uuid[8:24], "VMAEVMAEVMAEVMAE")
	sign(uuid[:len(header)], 32)
	short := bytes.Clone(header)
	binary.BigEndian.PutUint32(short[56:], 60<<20)
	return map[string][]byte{
		"a page for each slot":       extents(n, func(i int) uint64 { return uint64(i%254+1)<<32 | uint64(uint32(i)*2654435761) }),
		"one device scattered":       extents(n, func(i int) uint64 { return 1<<32 | uint64(uint32(i)*2654435761) }),
		"one cluster again":          extents(n, func(i int) uint64 { return 1<<32 | 77 }),
		"unknown devices":            extents(n, func(i int) uint64 { return 255<<32 | uint64(uint32(i)*2654435761) }),
		"reserved":                   extents(n, func(i int) uint64 { return uint64(i%254+1)<<32 | 0xff<<40 | uint64(i) }),
		"extents of blocks":          extents(n, func(i int) uint64 { return 0xffff<<48 | 1<<32 | uint64(i) }),
		"magic over and over":        repeat("VMAE", 1<<18),
		"magic and uuid":             uuid,
		"damaged headers":            damaged,
		"blobs of no length":         blobs,
		"a header that is not there": short,
	}
}

// TestHostile measures what archives cost that are made to cost much.
func TestHostile(t *testing.T) {
	for name, b := range hostileArchives(t) {
		for _, p := range []vma.Profile{vma.Proxmox, vma.Strict, vma.Salvage} {
			o := &vma.Options{Profile: p}
			for what, f := range map[string]func(){
				"verify": func() {
					if _, err := vma.Verify(t.Context(), bytes.NewReader(b), o); err != nil {
						t.Error(err)
					}
				},
				"open": func() {
					a, err := vma.Open(bytes.NewReader(b), o)
					if err != nil {
						return
					}
					p := make([]byte, 1<<20)
					for _, d := range a.Devices() {
						if _, err := d.ReadAt(p, d.Size()/3); err != nil {
							t.Fatal(err)
						}
					}
				},
				"stream": func() {
					rd, err := vma.NewReader(struct{ io.Reader }{bytes.NewReader(b)}, o)
					for err == nil {
						_, err = rd.Next()
					}
				},
			} {
				if testing.Short() && (what != "open" || p != vma.Salvage) {
					continue
				}
				start := time.Now()
				peak := peakMemory(f)
				took := time.Since(start)
				if peak > hostileMemory || took > hostileTime {
					t.Errorf("%s: %s as %v: %d MiB, %v", name, what, p, peak>>20, took)
				}
			}
		}
	}
}

// peakMemory returns how far the heap grows while f runs.
func peakMemory(f func()) uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	before, peak := m.HeapAlloc, m.HeapAlloc
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-done:
				return
			case <-time.After(5 * time.Millisecond):
				runtime.ReadMemStats(&m)
				peak = max(peak, m.HeapAlloc)
			}
		}
	}()
	f()
	close(done)
	<-stopped
	runtime.ReadMemStats(&m)
	return max(peak, m.HeapAlloc) - before
}
