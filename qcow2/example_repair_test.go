package qcow2_test

import (
	"context"
	"fmt"
	"log"

	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qcow2"
)

// An image with a wrong refcount is checked and repaired.
func ExampleRepair() {
	ctx := context.Background()
	f := memfile.New() // in memory: an *os.File does as well
	img, err := qcow2.Create(f, 1<<20, nil)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := img.WriteAt([]byte("hello"), 0); err != nil {
		log.Fatal(err)
	}
	if err := img.Close(); err != nil {
		log.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0, 0}, 0x20000+5*2); err != nil { // that of the sixth cluster
		log.Fatal(err)
	}

	found, err := qcow2.Check(ctx, f, nil) // needs no more than a reader
	if err != nil {
		log.Fatal(err)
	}
	for _, finding := range found.Findings {
		fmt.Println(finding)
	}
	left, err := qcow2.Repair(ctx, f, qcow2.RepairAll, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("fixed:", left.CorruptionsFixed, "clean:", left.Clean())
	// Output:
	// L2 entry at 0x40000: wrong COPIED flag: 0x8000000000050000
	// cluster at 0x50000: refcount too small: refcount 0, references 1
	// fixed: 2 clean: true
}
