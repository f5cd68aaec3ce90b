package main

import (
	"context"
	"fmt"
	"os"
)

// A row is one line of the table, or a few that are measured together.
type row struct {
	name   string
	images []string // that it needs
	run    func(context.Context, *bench) ([]line, error)
}

func rows() []row {
	return []row{
		randomReads("half", "qcow2"),
		randomReads("frag", "qcow2"),
		randomReads("half", "qed"),
		{"read 4K of 100 GiB sparse", []string{"sparse.qcow2"}, sparseReads},
		{"open and close", []string{"frag.qcow2"}, openClose},
		{"write in requests of 64K", nil, sequentialWrites},
		convert("half", "qcow2", "cp"),
		convert("frag", "qcow2", "cp"),
		convert("half", "qed", "cp"),
		convert("half", "qcow2", "qemu-img"),
		convert("frag", "qcow2", "qemu-img"),
		convert("half", "qed", "qemu-img"),
		convert("deflate", "qcow2", "qemu-img"),
		convert("zstd", "qcow2", "qemu-img"),
		convertCompressed("deflate", 0.5, 1),
		convertCompressed("zstd", 1.1, 1.02),
		{"check 1 TiB of metadata", []string{"meta.qcow2"}, checkMetadata},
		{"vma extract", []string{"disk.raw", "disk.vma"}, archiveExtract},
		{"vma extract .zst", []string{"disk.vma.zst"}, archiveExtractZstd},
		{"vma verify", []string{"zeros.vma"}, archiveVerify},
		{"vma write", []string{"disk.raw"}, archiveWrite},
	}
}

// called returns the name of an image in a table, where most are qcow2.
func called(image, format string) string {
	if format == "qcow2" {
		return image
	}
	return image + "." + format
}

// convert converts an image to a raw one, beside qemu-img doing it, or beside
// a copy of the raw image, which as cp makes it does not look for zeros.
func convert(image, format, beside string) row {
	r := row{name: fmt.Sprintf("convert %s to raw, %s", called(image, format), beside), images: []string{image + "." + format}}
	if beside == "cp" {
		r.images = append(r.images, image+".raw")
	}
	r.run = func(ctx context.Context, b *bench) ([]line, error) {
		src, dst := b.path(image+"."+format), b.path("out.raw")
		defer os.Remove(dst)
		work, peer, note := "copy", []string{"cp", b.path(image + ".raw"), dst}, "neither looks for zeros"
		if beside != "cp" {
			work, peer, note = "raw", []string{"qemu-img", "convert", "-m", "8", "-W", "-f", format, "-O", "raw", src, dst}, "beside qemu-img -m 8 -W"
		}
		p, err := b.race(ctx, dst, []string{b.self, workerCommand, work, src, dst}, peer)
		if err != nil {
			return nil, err
		}
		return []line{p.line(1, note)}, nil
	}
	return r
}

// convertCompressed compresses text to an image, beside qemu-img.
func convertCompressed(method string, most, mostSize float64) row {
	return row{"convert -c to " + method, []string{"text.raw"}, func(ctx context.Context, b *bench) ([]line, error) {
		src, ours, theirs := b.path("text.raw"), b.path("ours.qcow2"), b.path("theirs.qcow2")
		defer os.Remove(ours)
		defer os.Remove(theirs)
		option := "compression_type=zlib"
		if method == "zstd" {
			option = "compression_type=zstd"
		}
		p, err := b.race(ctx, "", []string{b.self, workerCommand, method, src, ours},
			[]string{"qemu-img", "convert", "-c", "-m", "8", "-W", "-f", "raw", "-O", "qcow2", "-o", option, src, theirs})
		if err != nil {
			return nil, err
		}
		m, err := os.Stat(ours)
		if err != nil {
			return nil, err
		}
		n, err := os.Stat(theirs)
		if err != nil {
			return nil, err
		}
		mb := func(fi os.FileInfo) string { return fmt.Sprintf("%.1f MB", float64(fi.Size())/1e6) }
		size := float64(m.Size()) / float64(n.Size())
		return []line{
			p.line(most, "beside qemu-img -m 8 -W"),
			{ours: mb(m), peer: mb(n), least: size, judged: size, most: mostSize, note: "size"},
		}, nil
	}}
}

func checkMetadata(ctx context.Context, b *bench) ([]line, error) {
	src := b.path("meta.qcow2")
	p, err := b.race(ctx, "", []string{b.self, workerCommand, "check", src}, []string{"qemu-img", "check", "-q", "-f", "qcow2", src})
	if err != nil {
		return nil, err
	}
	return []line{p.line(1, "beside qemu-img")}, nil
}
