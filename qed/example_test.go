package qed_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qed"
)

func Example() {
	f := memfile.New() // in a program an *os.File
	img, err := qed.Create(f, 1<<30, nil)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := img.WriteAt([]byte("hello"), 1<<20); err != nil {
		log.Fatal(err)
	}
	if err := img.Close(); err != nil { // makes all of it durable
		log.Fatal(err)
	}

	img, err = qed.Open(f, nil)
	if err != nil {
		log.Fatal(err)
	}
	p := make([]byte, 5)
	if _, err := img.ReadAt(p, 1<<20); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s, %d bytes of disk in %d of file\n", p, img.Size(), f.Size())
	// Output: hello, 1073741824 bytes of disk in 655360 of file
}

func ExampleImage_Extents() {
	img, err := qed.Create(memfile.New(), 1<<20, nil) // in memory: an *os.File does as well
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

func ExampleImage_Check() {
	f := memfile.New() // in memory: an *os.File does as well
	img, err := qed.Create(f, 1<<20, nil)
	if err != nil {
		log.Fatal(err)
	}
	if err := f.Truncate(f.Size() + 65536); err != nil { // a cluster that nothing refers to
		log.Fatal(err)
	}
	res, err := img.Check(context.Background(), nil)
	if err != nil {
		log.Fatal(err)
	}
	for _, finding := range res.Findings {
		fmt.Println(finding)
	}
	// Output: 1 clusters at 0x50000: leaked
}

func ExampleCompare() {
	a, err := qed.Create(memfile.New(), 1<<20, nil) // in memory: an *os.File does as well
	if err != nil {
		log.Fatal(err)
	}
	if _, err := a.WriteAt([]byte("hello"), 4096); err != nil {
		log.Fatal(err)
	}
	b, err := qed.Create(memfile.New(), 2<<20, nil)
	if err != nil {
		log.Fatal(err)
	}
	d, err := qed.Compare(context.Background(), a, b, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(d)
	// Output: content differs at 0x1000
}

// An image is opened with its backing file, which lies in the same folder. QED
// stores of the format of a backing file only whether it is raw.
func ExampleOpenFile() {
	dir, err := os.MkdirTemp("", "chain")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	root, err := os.OpenRoot(dir)
	if err != nil {
		log.Fatal(err)
	}
	defer root.Close()
	for _, name := range []string{"base.qed", "vm.qed"} {
		o := &qed.CreateOptions{}
		if name == "vm.qed" {
			o.BackingFile, o.BackingFormat = "base.qed", "qed"
		}
		f, err := root.Create(name)
		if err != nil {
			log.Fatal(err)
		}
		img, err := qed.Create(f, 1<<20, o)
		if err != nil {
			log.Fatal(err)
		}
		if err := errors.Join(img.Close(), f.Close()); err != nil {
			log.Fatal(err)
		}
	}

	img, err := qed.OpenFile("vm.qed", &qed.Options{Root: root, BackingFormat: "qed", Write: true})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := img.WriteAt([]byte("hello"), 0); err != nil {
		log.Fatal(err)
	}
	fmt.Println(img.Header().BackingFile, img.Backing().Size())
	if err := img.Close(); err != nil { // the backing file too
		log.Fatal(err)
	}
	// Output: base.qed 1048576
}
