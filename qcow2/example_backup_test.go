package qcow2_test

import (
	"context"
	"fmt"
	"io"
	"log"

	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qcow2"
)

// An incremental backup of a disk that is in use copies what a bitmap has
// recorded since the last one, as it was at one moment, and leaves another
// bitmap behind for the next.
func ExampleImage_DirtyRanges() {
	ctx := context.Background()
	img, err := qcow2.Create(memfile.New(), 8<<20, nil) // in memory: an *os.File does as well
	if err != nil {
		log.Fatal(err)
	}
	backup := memfile.New() // a full backup: so far nothing was written
	if err := img.AddBitmap("backup0", nil); err != nil {
		log.Fatal(err)
	}
	if _, err := img.WriteAt([]byte("hello"), 1<<20); err != nil {
		log.Fatal(err)
	}

	// In this order no write is missed: one between two steps is in both bitmaps.
	if err := img.AddBitmap("backup1", nil); err != nil {
		log.Fatal(err)
	}
	moment, err := img.CreateSnapshot(ctx, "backup", nil)
	if err != nil {
		log.Fatal(err)
	}
	if err := img.DisableBitmap("backup0"); err != nil {
		log.Fatal(err)
	}
	if _, err := img.WriteAt([]byte("later"), 1<<20); err != nil { // the guest goes on
		log.Fatal(err)
	}

	disk, err := img.OpenSnapshot(moment.ID)
	if err != nil {
		log.Fatal(err)
	}
	for r, err := range img.DirtyRanges("backup0") {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("copying", r.Length, "bytes at", r.Start)
		from, to := io.NewSectionReader(disk, r.Start, r.Length), io.NewOffsetWriter(backup, r.Start)
		if _, err := io.Copy(to, from); err != nil {
			log.Fatal(err)
		}
	}
	if err := disk.Close(); err != nil {
		log.Fatal(err)
	}
	if err := img.DeleteSnapshot(ctx, moment.ID); err != nil {
		log.Fatal(err)
	}
	if err := img.RemoveBitmap("backup0"); err != nil {
		log.Fatal(err)
	}

	p := make([]byte, 5)
	if _, err := backup.ReadAt(p, 1<<20); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", p)
	for r := range img.DirtyRanges("backup1") {
		fmt.Println("for the next:", r.Length, "bytes at", r.Start)
	}
	// Output:
	// copying 65536 bytes at 1048576
	// hello
	// for the next: 65536 bytes at 1048576
}

// A disk is packed into a compressed image that goes to a pipe or a network
// connection.
func ExampleEncode() {
	img, err := qcow2.Create(memfile.New(), 8<<20, nil) // in memory: an *os.File does as well
	if err != nil {
		log.Fatal(err)
	}
	if _, err := img.WriteAt(make([]byte, 1<<20), 0); err != nil {
		log.Fatal(err)
	}
	if _, err := img.WriteAt([]byte("hello"), 0); err != nil {
		log.Fatal(err)
	}
	r, w := io.Pipe()
	go func() {
		w.CloseWithError(qcow2.Encode(context.Background(), w, img, &qcow2.EncodeOptions{
			Compress: true,
			Create:   &qcow2.CreateOptions{CompressionType: qcow2.CompressionZstd},
		}))
	}()
	received, err := io.ReadAll(r)
	if err != nil {
		log.Fatal(err)
	}
	f := memfile.FromBytes(received)
	packed, err := qcow2.Open(f, nil)
	if err != nil {
		log.Fatal(err)
	}
	difference, err := qcow2.Compare(context.Background(), img, packed, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(packed.Header().CompressionType, f.Size() < 400<<10, difference == nil)
	// Output: zstd true true
}
