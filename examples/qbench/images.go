package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/virtfmt/virtfmt/internal/corpus"
	"github.com/virtfmt/virtfmt/vma"
)

const (
	mib     = 1 << 20
	gib     = 1 << 30
	cluster = 64 << 10
)

// path returns where an image of the bench lies.
func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

// size returns n bytes at the scale of the bench, in whole MiB.
func (b *bench) size(n int64) int64 { return max(2, int64(float64(n/mib)*b.scale)/2*2) * mib }

// makeImage makes the image with that name if it is not there.
//
//	half.raw, half.qcow2,
//	half.qed                MiB of random data and holes in turn
//	text.raw                text
//	deflate.qcow2           the text, compressed with deflate
//	zstd.qcow2              the text, compressed with zstd
//	sparse.qcow2            100 GiB with 2000 random pieces of 4 KiB
//	frag.qcow2, frag.raw    all clusters written in random order
//	meta.qcow2              1 TiB with all of its metadata, and no data
//	disk.raw                text in 60 % of its blocks of 4 KiB, at random
//	disk.vma, disk.vma.zst  an archive of it
//	zeros.vma               an archive of 64 GiB of zeros
func (b *bench) makeImage(ctx context.Context, name string) error {
	if _, err := os.Stat(b.path(name)); err == nil {
		return nil
	}
	part := b.path(name) + ".part"
	defer os.Remove(part)
	convert := func(src, from, to string, args ...string) error {
		if err := b.makeImage(ctx, src); err != nil {
			return err
		}
		args = append([]string{"convert", "-m", "8", "-W", "-f", from, "-O", to}, args...)
		return b.tool(ctx, nil, "qemu-img", append(args, b.path(src), part)...)
	}
	var err error
	switch name {
	case "half.raw":
		err = b.makeHalf(part)
	case "text.raw":
		err = write(part, io.LimitReader(corpus.Text(1), b.size(gib)))
	case "half.qcow2":
		err = convert("half.raw", "raw", "qcow2")
	case "half.qed":
		err = convert("half.raw", "raw", "qed")
	case "deflate.qcow2":
		err = convert("text.raw", "raw", "qcow2", "-c")
	case "zstd.qcow2":
		err = convert("text.raw", "raw", "qcow2", "-c", "-o", "compression_type=zstd")
	case "frag.raw":
		err = convert("frag.qcow2", "qcow2", "raw")
	case "frag.qcow2":
		clusters := int(b.size(gib) / cluster)
		err = b.writes(ctx, part, b.size(gib), func(r *rand.Rand, w io.Writer) {
			for _, i := range r.Perm(clusters) {
				fmt.Fprintf(w, "write -q -P %d %d %d\n", 1+i%255, int64(i)*cluster, cluster)
			}
		})
	case "sparse.qcow2":
		err = b.writes(ctx, part, 100*gib, func(r *rand.Rand, w io.Writer) {
			for i := range 2000 {
				fmt.Fprintf(w, "write -q -P %d %d 4k\n", 1+i%255, r.Int64N(100*gib/4096)*4096)
			}
		})
	case "meta.qcow2":
		size := int64(float64(1024*gib) * b.scale)
		err = b.tool(ctx, nil, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", part, fmt.Sprint(size))
	case "disk.raw":
		err = b.makeDisk(part)
	case "disk.vma":
		if err = b.makeImage(ctx, "disk.raw"); err == nil {
			err = vmaWrite(ctx, b.path("disk.raw"), part)
		}
	case "disk.vma.zst":
		if err = b.makeImage(ctx, "disk.vma"); err == nil {
			err = b.tool(ctx, nil, "zstd", "-q", "-f", b.path("disk.vma"), "-o", part)
		}
	case "zeros.vma":
		err = zerosArchive(part, int64(float64(64*gib)*b.scale)/vma.ClusterSize*vma.ClusterSize)
	default:
		err = fmt.Errorf("no such image")
	}
	if err != nil {
		return err
	}
	return os.Rename(part, b.path(name))
}

// makeHalf makes a raw file of twice the data, every other MiB of it a hole.
func (b *bench) makeHalf(path string) error {
	return createFile(path, func(f *os.File) error {
		noise, size := corpus.Noise(1), 2*b.size(gib)
		for off := int64(0); off < size; off += 2 * mib {
			if _, err := f.WriteAt(corpus.Bytes(noise, mib), off); err != nil {
				return err
			}
		}
		return f.Truncate(size)
	})
}

// makeDisk makes a raw file of a disk that is partly used.
func (b *bench) makeDisk(path string) error {
	return createFile(path, func(f *os.File) error {
		r, text, size := rand.New(rand.NewPCG(1, 2)), corpus.Text(1), b.size(gib)
		for off := int64(0); off < size; off += vma.BlockSize {
			if r.Float64() >= 0.6 {
				continue
			}
			if _, err := f.WriteAt(corpus.Bytes(text, vma.BlockSize), off); err != nil {
				return err
			}
		}
		return f.Truncate(size)
	})
}

// writes makes an image of size bytes by commands of qemu-io.
func (b *bench) writes(ctx context.Context, path string, size int64, commands func(*rand.Rand, io.Writer)) error {
	if err := b.tool(ctx, nil, "qemu-img", "create", "-q", "-f", "qcow2", path, fmt.Sprint(size)); err != nil {
		return err
	}
	var in bytes.Buffer
	commands(rand.New(rand.NewPCG(1, 2)), &in)
	return b.tool(ctx, &in, "qemu-io", "-t", "unsafe", "-f", "qcow2", path)
}

// tool runs a program.
func (b *bench) tool(ctx context.Context, in io.Reader, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = in, &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return nil
}

// write writes what r holds to a new file.
func write(path string, r io.Reader) error {
	return createFile(path, func(f *os.File) error {
		_, err := io.Copy(f, r)
		return err
	})
}
