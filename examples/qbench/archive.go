package main

import (
	"context"
	"crypto/md5"
	"encoding/binary"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/vma"
)

// vmaWrite makes an archive of a raw image.
func vmaWrite(ctx context.Context, src, dst string) error {
	return fromRaw(src, dst, func(f *os.File, disk block.Disk) error {
		w, err := vma.NewWriter(f, &vma.Header{Devices: []vma.DeviceInfo{{Name: "disk", Size: disk.Size()}}}, nil)
		if err != nil {
			return err
		}
		if err := w.CopyFrom(ctx, 1, disk, nil); err != nil {
			return err
		}
		return w.Close()
	})
}

// zerosArchive makes an archive of a disk of zeros.
func zerosArchive(dst string, size int64) error {
	return createFile(dst, func(f *os.File) error {
		w, err := vma.NewWriter(f, &vma.Header{Devices: []vma.DeviceInfo{{Name: "disk", Size: size}}}, &vma.WriterOptions{FillMissing: true})
		if err != nil {
			return err
		}
		return w.Close()
	})
}

// vmaExtract writes the devices of an archive to a file: there is one.
func vmaExtract(ctx context.Context, src, dst string) error {
	return createFile(dst, func(f *os.File) error {
		o := &vma.ExtractOptions{Target: func(vma.DeviceInfo) (*vma.Target, error) { return &vma.Target{W: f}, nil }}
		a, err := vma.OpenFile(src, nil)
		if err == nil {
			defer a.Close()
			_, err = a.Extract(ctx, o)
			return err
		}
		in, err := os.Open(src)
		if err != nil {
			return err
		}
		defer in.Close()
		d, _, err := vma.Decompress(in, nil)
		if err != nil {
			return err
		}
		defer d.Close()
		r, err := vma.NewReader(d, nil)
		if err != nil {
			return err
		}
		_, err = r.Extract(ctx, o)
		return err
	})
}

// unzstd decodes a file with the decoder that an extraction uses, in one
// goroutine as there, and does nothing with it.
func unzstd(src string) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	d, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	if err != nil {
		return err
	}
	defer d.Close()
	_, err = io.Copy(io.Discard, d)
	return err
}

func archiveExtract(ctx context.Context, b *bench) ([]line, error) {
	dst := b.path("out.raw")
	defer os.Remove(dst)
	p, err := b.race(ctx, dst, []string{b.self, workerCommand, "vma-extract", b.path("disk.vma"), dst},
		[]string{"cp", "--sparse=always", b.path("disk.raw"), dst})
	if err != nil {
		return nil, err
	}
	return []line{p.line(1.3, "beside cp --sparse=always of the content")}, nil
}

func archiveExtractZstd(ctx context.Context, b *bench) ([]line, error) {
	dst := b.path("out.raw")
	defer os.Remove(dst)
	p, err := b.race(ctx, dst, []string{b.self, workerCommand, "vma-extract", b.path("disk.vma.zst"), dst},
		[]string{b.self, workerCommand, "unzstd", b.path("disk.vma.zst")})
	if err != nil {
		return nil, err
	}
	return []line{p.line(1.1, "beside the decoder alone")}, nil
}

func archiveWrite(ctx context.Context, b *bench) ([]line, error) {
	dst := b.path("out.vma")
	defer os.Remove(dst)
	p, err := b.race(ctx, dst, []string{b.self, workerCommand, "vma-write", b.path("disk.raw"), dst},
		[]string{"cp", "--sparse=always", b.path("disk.raw"), dst})
	if err != nil {
		return nil, err
	}
	return []line{p.line(1.3, "beside cp --sparse=always of the source")}, nil
}

// archiveVerify verifies an archive in which there is little but headers of
// extents, beside reading those and their checksums.
func archiveVerify(ctx context.Context, b *bench) ([]line, error) {
	f, err := os.Open(b.path("zeros.vma"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	verify := func() error {
		r, err := vma.Verify(ctx, f, nil)
		if err == nil {
			err = r.Err()
		}
		return err
	}
	p, err := inTurn(ctx, b.pairs, func(int) (cost, error) { return timed(verify) },
		func(int) (cost, error) { return timed(func() error { return walkArchive(f) }) })
	if err != nil {
		return nil, err
	}
	return []line{p.byMedian(1.2, "beside preads and MD5 of the extent headers")}, nil
}

// walkArchive reads the headers of all extents, and hashes them.
func walkArchive(f *os.File) error {
	var h [512]byte
	if _, err := f.ReadAt(h[:], 0); err != nil {
		return err
	}
	off := int64(binary.BigEndian.Uint32(h[56:])) // the size of the header
	for {
		if _, err := f.ReadAt(h[:], off); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		md5.Sum(h[:])
		off += 512 + vma.BlockSize*int64(binary.BigEndian.Uint16(h[6:]))
	}
}
