package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/qcow2"
	"github.com/virtfmt/virtfmt/qed"
)

// workerCommand makes qbench do one thing as a process of its own, as the
// programs beside it do.
const workerCommand = "worker"

// work does what a worker process is for:
//
//	raw SRC DST              a qcow2 or qed image to a raw one, looking for zeros
//	copy SRC DST             the same, taking data as it is
//	deflate SRC DST          a raw image to a compressed qcow2 one
//	zstd SRC DST
//	check SRC
//	vma-extract SRC DST      the device of an archive, which may be compressed
//	vma-write SRC DST        an archive of a raw image
//	unzstd SRC               decodes, to nowhere
func work(ctx context.Context, what string, args []string) error {
	switch what {
	case "raw":
		return toRaw(ctx, args[0], args[1], nil)
	case "copy":
		return toRaw(ctx, args[0], args[1], &block.CopyOptions{Sparse: -1})
	case "deflate", "zstd":
		create := &qcow2.CreateOptions{}
		if what == "zstd" {
			create.CompressionType = qcow2.CompressionZstd
		}
		return compress(ctx, args[0], args[1], create)
	case "check":
		return check(ctx, args[0])
	case "vma-extract":
		return vmaExtract(ctx, args[0], args[1])
	case "vma-write":
		return vmaWrite(ctx, args[0], args[1])
	case "unzstd":
		return unzstd(args[0])
	}
	return fmt.Errorf("no work is called %q", what)
}

// An image is one of qcow2 or qed.
type image interface {
	block.Disk
	CopyTo(context.Context, io.WriterAt, *block.CopyOptions) (block.CopyStats, error)
	Close() error
}

// open opens an image for reading, whose name ends with its format.
func open(name string) (image, error) {
	if strings.HasSuffix(name, ".qed") {
		return qed.OpenFile(name, nil)
	}
	return qcow2.OpenFile(name, nil)
}

func toRaw(ctx context.Context, src, dst string, o *block.CopyOptions) error {
	im, err := open(src)
	if err != nil {
		return err
	}
	defer im.Close()
	return createFile(dst, func(f *os.File) error {
		_, err := im.CopyTo(ctx, f, o)
		return err
	})
}

func compress(ctx context.Context, src, dst string, create *qcow2.CreateOptions) error {
	return fromRaw(src, dst, func(f *os.File, disk block.Disk) error {
		return qcow2.Encode(ctx, f, disk, &qcow2.EncodeOptions{Create: create, Compress: true})
	})
}

// createFile makes a file and has write write it.
func createFile(name string, write func(*os.File) error) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := write(f); err != nil {
		return err
	}
	return f.Close()
}

// fromRaw is createFile for what is made of a raw image.
func fromRaw(src, dst string, write func(*os.File, block.Disk) error) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	fi, err := in.Stat()
	if err != nil {
		return err
	}
	return createFile(dst, func(f *os.File) error { return write(f, block.Raw(in, fi.Size())) })
}

func check(ctx context.Context, src string) error {
	im, err := qcow2.OpenFile(src, nil)
	if err != nil {
		return err
	}
	defer im.Close()
	res, err := im.Check(ctx, nil)
	if err != nil {
		return err
	}
	if len(res.Findings) > 0 {
		return errors.New("the image is damaged")
	}
	return nil
}

// race runs two commands in turn, once to warm up. Before each run the file dst
// is removed.
func (b *bench) race(ctx context.Context, dst string, ours, peer []string) (pairs, error) {
	run := func(command []string) (cost, error) {
		if dst != "" {
			if err := os.Remove(dst); err != nil && !os.IsNotExist(err) {
				return cost{}, err
			}
		}
		return once(ctx, command)
	}
	return inTurn(ctx, b.runs, func(int) (cost, error) { return run(ours) }, func(int) (cost, error) { return run(peer) })
}

// once runs a command and returns what it took.
func once(ctx context.Context, command []string) (cost, error) {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	start := time.Now()
	err := cmd.Run()
	c := cost{wall: time.Since(start)}
	if err != nil {
		return c, fmt.Errorf("%s: %w: %s", command[0], err, bytes.TrimSpace(stderr.Bytes()))
	}
	c.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return c, nil
}
