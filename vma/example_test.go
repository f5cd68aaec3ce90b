package vma_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/virtfmt/virtfmt/vma"
)

// exampleArchive holds one disk of 200 KiB, of which a block is not zero.
func exampleArchive() []byte {
	disk := make(ram, 200<<10)
	copy(disk[100<<10:], "hello from block 25")
	return mustBuild(false, disk)
}

// A backup can be written without Proxmox, and restored with it.
func Example() {
	disk := make([]byte, 1<<20)
	copy(disk, "boot sector")

	var archive bytes.Buffer
	w, err := vma.NewWriter(&archive, &vma.Header{
		Configs: []vma.Config{{Name: "qemu-server.conf", Data: []byte("memory: 2048\nscsi0: local:100/vm-100-disk-0.raw\n")}},
		Devices: []vma.DeviceInfo{{Name: "drive-scsi0", Size: int64(len(disk))}},
	}, nil)
	if err != nil {
		log.Fatal(err)
	}
	if err := w.ReadFrom(context.Background(), 1, bytes.NewReader(disk), nil); err != nil {
		log.Fatal(err)
	}
	if err := w.Close(); err != nil {
		log.Fatal(err)
	}
	report, err := vma.Verify(context.Background(), bytes.NewReader(archive.Bytes()), nil)
	fmt.Println(report.OK(), err, report.Clusters, "clusters,", report.StoredBlocks, "block stored")
	// Output: true <nil> 16 clusters, 1 block stored
}

func ExampleNewReader() {
	r, err := vma.NewReader(bytes.NewReader(exampleArchive()), nil)
	if err != nil {
		log.Fatal(err)
	}
	for _, d := range r.Header().Devices {
		fmt.Println(d.Name, d.Size)
	}
	for {
		c, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			log.Fatal(err)
		}
		for off, data := range c.Runs() {
			fmt.Printf("cluster %d stores %d bytes at %d: %.19s\n", c.Number, len(data), off, data)
		}
	}
	// Output:
	// disk0 204800
	// cluster 1 stores 4096 bytes at 102400: hello from block 25
}

func ExampleOpen() {
	a, err := vma.Open(bytes.NewReader(exampleArchive()), nil)
	if err != nil {
		log.Fatal(err)
	}
	p := make([]byte, 5)
	if _, err := a.Device("disk0").ReadAt(p, 102400); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", p)
	// Output: hello
}

func ExampleDevice_Extents() {
	a, err := vma.Open(bytes.NewReader(exampleArchive()), nil)
	if err != nil {
		log.Fatal(err)
	}
	d := a.Device("disk0")
	for e, err := range d.Extents(0, d.Size()) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(e.Start, e.Length, e.Kind, e.HostOffset)
	}
	// Output:
	// 0 102400 zero -1
	// 102400 4096 data 13312
	// 106496 98304 zero -1
}

func ExampleVerify() {
	archive := exampleArchive()
	archive[13000] ^= 1 // a bit of the extent header
	report, err := vma.Verify(context.Background(), bytes.NewReader(archive[:len(archive)-1]), nil)
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range report.Findings {
		fmt.Printf("%v: %s at %#x: %v\n", f.Severity, f.Place(), f.Offset, f)
	}
	// Output:
	// error: extent 0 at 0x3218: wrong extent header checksum: repaired
	// error: extent 0 at 0x43ff: archive ends early: 4607 of 4608 bytes
	// error: extent 0 slot 1 at 0x3230: blocks lost: device 1 cluster 1: 4096 bytes
}

// The header of a .vma.zst tells what is in it, whichever way it is
// compressed.
func ExampleDecompress() {
	var file bytes.Buffer
	enc, err := zstd.NewWriter(&file)
	if err != nil {
		log.Fatal(err)
	}
	enc.Write(exampleArchive())
	enc.Close()

	z, compression, err := vma.Decompress(&file, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer z.Close()
	r, err := vma.NewReader(z, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(compression, r.Header().Devices)
	// Output: zstd [{1 disk0 204800}]
}

// Only lzop knows its own format: without a decoder for it, the error names
// it.
func ExampleDecompress_lzo() {
	_, compression, err := vma.Decompress(strings.NewReader("\x89LZO\x00\r\n\x1a\n..."), nil)
	fmt.Println(compression, err)
	// Output: lzo vma: no decoder for lzo
}

// One disk of an archive goes to an image, the others are passed over. The
// target may be a file, or a new qcow2 image: then say Zeroed, for it reads as
// zeros, and Whole.
func ExampleReader_Extract() {
	r, err := vma.NewReader(bytes.NewReader(exampleArchive()), nil)
	if err != nil {
		log.Fatal(err)
	}
	f, err := os.CreateTemp("", "disk")
	if err != nil {
		log.Fatal(err)
	}
	defer os.Remove(f.Name())
	found := false
	_, err = r.Extract(context.Background(), &vma.ExtractOptions{Target: func(d vma.DeviceInfo) (*vma.Target, error) {
		if d.Name != "disk0" {
			return nil, nil
		}
		found = true
		return &vma.Target{W: f}, nil
	}})
	if err != nil || !found {
		log.Fatal(err, found)
	}
	fi, err := f.Stat()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(fi.Size(), "bytes")
	if err := f.Close(); err != nil {
		log.Fatal(err)
	}
	// Output: 204800 bytes
}

// A backup of a disk in a file, with the line in its configuration without
// which Proxmox does not restore it.
func ExampleWriter_CopyFrom() {
	f := bytes.NewReader(make([]byte, 1000000)) // or an *os.File, whose holes are not read
	h := &vma.Header{Devices: []vma.DeviceInfo{{Name: "drive-scsi0", Size: (f.Size() + 511) / 512 * 512}}}
	conf := []byte("memory: 512\nscsi0: local-lvm:vm-100-disk-0\n")
	conf, err := vma.SetMap(conf, vma.MakeMap(conf, h.Devices))
	if err != nil {
		log.Fatal(err)
	}
	h.Configs = []vma.Config{{Name: vma.ConfigName, Data: conf}}
	w, err := vma.NewWriter(io.Discard, h, nil)
	if err != nil {
		log.Fatal(err)
	}
	if err := w.CopyFrom(context.Background(), w.Header().Devices[0].ID, vma.Raw(f, f.Size()), nil); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s%v\n", conf, w.Close())
	// Output:
	// memory: 512
	// scsi0: local-lvm:vm-100-disk-0
	// #qmdump#map:scsi0:drive-scsi0:local-lvm:raw:
	// <nil>
}
