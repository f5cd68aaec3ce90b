package qcow2_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
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

// A disk is hashed that somebody else has made: any reader will do, such as one
// that asks a web server for ranges, and what is wrong is told by its type.
func ExampleOpen() {
	f := memfile.New() // in memory: an *os.File does as well
	made, err := qcow2.Create(f, 1<<20, nil)
	if err != nil {
		log.Fatal(err)
	}
	if err := made.Close(); err != nil {
		log.Fatal(err)
	}

	hash := func(r io.ReaderAt, size int64) error {
		img, err := qcow2.Open(r, &qcow2.Options{Size: size})
		if err != nil {
			return err
		}
		defer img.Close()
		h := sha256.New()
		if _, err := io.Copy(h, io.NewSectionReader(img, 0, img.Size())); err != nil {
			return err
		}
		fmt.Printf("%x\n", h.Sum(nil)[:8])
		return nil
	}
	if err := hash(f, f.Size()); err != nil {
		log.Fatal(err)
	}

	if _, err := f.WriteAt([]byte{0xff}, 36); err != nil { // l1_size
		log.Fatal(err)
	}
	err = hash(f, f.Size())
	var wrong *qcow2.FormatError
	switch {
	case errors.Is(err, qcow2.ErrFormat):
		fmt.Println("another format")
	case errors.Is(err, errors.ErrUnsupported):
		fmt.Println("a feature that this package does not know")
	case errors.As(err, &wrong):
		fmt.Printf("damaged or hostile: %s, byte %d\n", wrong.Field, wrong.Offset)
	}
	// Output:
	// 30e14955ebf13522
	// damaged or hostile: l1_size, byte 36
}

func ExampleImage_Extents() {
	img, err := qcow2.Create(memfile.New(), 1<<20, nil) // in memory: an *os.File does as well
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
	img, err := qcow2.Create(memfile.New(), 1<<20, nil) // in memory: an *os.File does as well
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
	base := memfile.New() // in memory: an *os.File does as well
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
