package vma_test

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"os"

	"github.com/klauspost/compress/zstd"

	"github.com/virtfmt/virtfmt/qcow2"
	"github.com/virtfmt/virtfmt/vma"
)

// One disk of a backup, a vzdump-qemu-*.vma.zst, becomes a qcow2 image, without
// a raw one in between. A new image reads as zeros, so that none are written
// (Zeroed), and has the clusters of the archive (Whole).
func ExampleReader_Extract_qcow2() {
	var backup bytes.Buffer // or an *os.File
	enc, err := zstd.NewWriter(&backup)
	if err != nil {
		log.Fatal(err)
	}
	enc.Write(exampleArchive())
	enc.Close()
	f, err := os.CreateTemp("", "*.qcow2")
	if err != nil {
		log.Fatal(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()

	archive, _, err := vma.Decompress(&backup, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer archive.Close()
	r, err := vma.NewReader(archive, nil)
	if err != nil {
		log.Fatal(err)
	}
	var img *qcow2.Image
	_, err = r.Extract(context.Background(), &vma.ExtractOptions{Target: func(d vma.DeviceInfo) (*vma.Target, error) {
		if d.Name != "disk0" {
			return nil, nil // passed over
		}
		var err error
		if img, err = qcow2.Create(f, d.Size, nil); err != nil {
			return nil, err
		}
		return &vma.Target{W: img, Zeroed: true, Whole: true}, nil
	}})
	if err != nil {
		log.Fatal(err)
	}
	if img == nil {
		log.Fatal("the backup has no such disk")
	}
	if err := img.Close(); err != nil { // makes all of it durable
		log.Fatal(err)
	}

	if img, err = qcow2.Open(f, nil); err != nil {
		log.Fatal(err)
	}
	p := make([]byte, 5)
	if _, err := img.ReadAt(p, 102400); err != nil {
		log.Fatal(err)
	}
	fmt.Println(img.Size(), string(p))
	// Output: 204800 hello
}
