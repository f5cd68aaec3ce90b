package qcow2_test

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"os"

	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qcow2"
)

func Example() {
	f, err := os.CreateTemp("", "*.qcow2") // or any file in memory
	if err != nil {
		log.Fatal(err)
	}
	defer os.Remove(f.Name())
	img, err := qcow2.Create(f, 1<<30, nil)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := img.WriteAt([]byte("hello"), 1<<20); err != nil {
		log.Fatal(err)
	}
	if err := img.Close(); err != nil { // makes all of it durable
		log.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(img.Size(), "bytes of disk in", info.Size(), "of file")
	// Output: 1073741824 bytes of disk in 328192 of file
}

func ExampleImage_Extents() {
	img, err := qcow2.Create(memfile.New(), 1<<20, nil)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := img.WriteAt([]byte("hello"), 128<<10); err != nil {
		log.Fatal(err)
	}
	for e, err := range img.Extents(0, img.Size()) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%#x %#x %v\n", e.Start, e.Length, e.Kind)
	}
	// Output:
	// 0x0 0x20000 unallocated
	// 0x20000 0x10000 data
	// 0x30000 0xd0000 unallocated
}

func ExampleImage_CreateSnapshot() {
	ctx := context.Background()
	img, err := qcow2.Create(memfile.New(), 1<<20, nil)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := img.WriteAt([]byte("before"), 0); err != nil {
		log.Fatal(err)
	}
	s, err := img.CreateSnapshot(ctx, "clean", nil)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := img.WriteAt([]byte("after!"), 0); err != nil {
		log.Fatal(err)
	}
	kept, err := img.OpenSnapshot(s.ID) // a Disk, without applying it
	if err != nil {
		log.Fatal(err)
	}
	for _, d := range []qcow2.Disk{img, kept} {
		b := make([]byte, 6)
		if _, err := d.ReadAt(b, 0); err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s\n", b)
	}
	if err := img.ApplySnapshot(ctx, "clean"); err != nil {
		log.Fatal(err)
	}
	if err := img.DeleteSnapshot(ctx, "clean"); err != nil {
		log.Fatal(err)
	}
	// Output:
	// after!
	// before
}

func ExampleImage_Rebase() {
	base := memfile.New()
	if _, err := base.WriteAt(bytes.Repeat([]byte("base"), 1<<18), 0); err != nil {
		log.Fatal(err)
	}
	open := &qcow2.Options{OpenBacking: func(name, format string) (qcow2.Disk, error) {
		return qcow2.Raw(base, 1<<20), nil
	}}
	img, err := qcow2.Create(memfile.New(), 1<<20, &qcow2.CreateOptions{BackingFile: "base.raw", BackingFormat: "raw", Open: open})
	if err != nil {
		log.Fatal(err)
	}
	if err := img.Rebase(context.Background(), "", "", nil); err != nil { // now it stands alone
		log.Fatal(err)
	}
	p := make([]byte, 4)
	if _, err := img.ReadAt(p, 1000); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s, backing file %q\n", p, img.Header().BackingFile)
	// Output: base, backing file ""
}
