package qcow2_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/virtfmt/virtfmt/qcow2"
)

// makeChain makes a raw disk and an image on top of it, in a new folder.
func makeChain() (dir string, err error) {
	if dir, err = os.MkdirTemp("", "chain"); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "base.raw"), make([]byte, 1<<20), 0o600); err != nil {
		return "", err
	}
	f, err := os.Create(filepath.Join(dir, "vm.qcow2"))
	if err != nil {
		return "", err
	}
	defer f.Close()
	img, err := qcow2.Create(f, 2<<20, &qcow2.CreateOptions{BackingFile: "base.raw", BackingFormat: "raw"})
	if err != nil {
		return "", err
	}
	return dir, img.Close()
}

// An image is opened with the backing files that lie in the same folder, and
// its chain is listed.
func ExampleOpenFile() {
	dir, err := makeChain()
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	root, err := os.OpenRoot(dir)
	if err != nil {
		log.Fatal(err)
	}
	defer root.Close()

	img, err := qcow2.OpenFile("vm.qcow2", &qcow2.Options{Root: root, Write: true})
	if err != nil {
		log.Fatal(err)
	}
	for d := qcow2.Disk(img); d != nil; {
		layer, ok := d.(*qcow2.Image)
		if !ok {
			fmt.Println("raw,", d.Size(), "bytes")
			break
		}
		h := layer.Header()
		fmt.Printf("qcow2, %d bytes, on %q (%s)\n", layer.Size(), h.BackingFile, h.BackingFormat())
		d = layer.Backing()
	}
	if err := img.Close(); err != nil { // the backing files too
		log.Fatal(err)
	}

	_, err = qcow2.OpenFile(filepath.Join(dir, "vm.qcow2"), nil)
	fmt.Println("without Root:", errors.Is(err, qcow2.ErrNotGranted))
	// Output:
	// qcow2, 2097152 bytes, on "base.raw" (raw)
	// raw, 1048576 bytes
	// without Root: true
}

// What an image holds goes to its backing file, which is opened for writing
// before the image is, and to which the image is given.
func ExampleImage_Commit() {
	dir, err := makeChain()
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	base, err := os.OpenFile(filepath.Join(dir, "base.raw"), os.O_RDWR, 0)
	if err != nil {
		log.Fatal(err)
	}
	img, err := qcow2.OpenFile(filepath.Join(dir, "vm.qcow2"), &qcow2.Options{
		Write: true,
		OpenBacking: func(name, format string) (qcow2.Disk, error) {
			if name != "base.raw" || format != "raw" {
				return nil, qcow2.ErrNotGranted
			}
			return qcow2.RawFile(base) // img.Close closes it
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := img.WriteAt([]byte("hello"), 4096); err != nil {
		log.Fatal(err)
	}
	if err := img.Commit(context.Background(), base, nil); err != nil {
		log.Fatal(err)
	}
	p := make([]byte, 5)
	if _, err := base.ReadAt(p, 4096); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s in the backing file\n", p)
	if err := img.Close(); err != nil {
		log.Fatal(err)
	}
	// Output: hello in the backing file
}

// A disk is copied to a raw file, its backing files included. What is not stored
// in any of them becomes holes.
func ExampleImage_CopyTo() {
	dir, err := makeChain()
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	root, err := os.OpenRoot(dir)
	if err != nil {
		log.Fatal(err)
	}
	defer root.Close()
	img, err := qcow2.OpenFile("vm.qcow2", &qcow2.Options{Root: root})
	if err != nil {
		log.Fatal(err)
	}
	defer img.Close()
	raw, err := os.Create(filepath.Join(dir, "vm.raw"))
	if err != nil {
		log.Fatal(err)
	}
	percent := int64(0)
	stats, err := img.CopyTo(context.Background(), raw, &qcow2.CopyOptions{
		Progress: func(done, total int64) { percent = 100 * done / total }, // or draw a bar
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := raw.Close(); err != nil {
		log.Fatal(err)
	}
	fmt.Println(percent, "%,", stats.Written+stats.Zeroed+stats.Skipped, "bytes")
	// Output: 100 %, 2097152 bytes
}
