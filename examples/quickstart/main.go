// Command quickstart makes a qcow2 image, writes to it, checks it, packs it
// into a compressed copy, and prints the map of both. It needs nothing but Go.
//
//	quickstart [DIRECTORY]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/virtfmt/virtfmt/examples/internal/stdflag"
	"github.com/virtfmt/virtfmt/qcow2"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil && err != flag.ErrHelp {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	fs := flag.NewFlagSet("quickstart", flag.ContinueOnError)
	fs.Usage = func() { fmt.Fprintln(out, "usage: quickstart [DIRECTORY]") }
	if err := stdflag.ParseAtMost(1, fs, args, out); err != nil {
		return err
	}
	dir := fs.Arg(0)
	if dir == "" {
		var err error
		if dir, err = os.MkdirTemp("", "quickstart"); err != nil {
			return err
		}
		defer os.RemoveAll(dir)
	}
	disk, packed := filepath.Join(dir, "disk.qcow2"), filepath.Join(dir, "packed.qcow2")
	if err := write(disk); err != nil {
		return err
	}
	if err := show(disk, out); err != nil {
		return err
	}
	if err := pack(disk, packed); err != nil {
		return err
	}
	return show(packed, out)
}

// write makes a disk of 1 GiB and writes to three places of it.
func write(name string) (err error) {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	img, err := qcow2.Create(f, 1<<30, nil)
	if err != nil {
		return err
	}
	text := make([]byte, 300<<10)
	for i := range text {
		text[i] = "All work and no play makes Jack a dull boy. "[i%44]
	}
	for _, off := range []int64{0, 100 << 20, 1<<30 - int64(len(text))} {
		if _, err := img.WriteAt(text, off); err != nil {
			return errors.Join(err, img.Close())
		}
	}
	return img.Close() // makes all of it durable
}

// pack writes a compressed copy of an image, front to back.
func pack(from, to string) (err error) {
	img, err := qcow2.OpenFile(from, nil)
	if err != nil {
		return err
	}
	defer img.Close()
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return qcow2.Encode(context.Background(), f, img, &qcow2.EncodeOptions{
		Compress: true,
		Create:   &qcow2.CreateOptions{CompressionType: qcow2.CompressionZstd},
	})
}

// show checks an image and prints its map.
func show(name string, out io.Writer) error {
	img, err := qcow2.OpenFile(name, nil)
	if err != nil {
		return err
	}
	defer img.Close()
	res, err := img.Check(context.Background(), nil)
	if err != nil {
		return err
	}
	fi, err := os.Stat(name)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s: a disk of %d bytes in a file of %d, %d corruptions, %d leaks\n",
		filepath.Base(name), img.Size(), fi.Size(), res.Corruptions, res.Leaks)
	for e, err := range img.Extents(0, img.Size()) {
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "  %#10x  %#10x  %v\n", e.Start, e.Length, e.Kind)
	}
	return nil
}
