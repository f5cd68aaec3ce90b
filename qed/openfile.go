package qed

import (
	"fmt"

	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/internal/imagefile"
)

// OpenFile opens the image with a path, as o says. Close closes the file.
//
// With [Options.Root] the path, and the names of backing files that the image
// and its backing files contain, are resolved inside that directory: neither
// "..", nor symbolic links, nor absolute names lead out of it. Only regular
// files are opened, as raw where an image says so, otherwise as
// [Options.BackingFormat], which must be "raw" or "qed" then and counts for
// the whole chain. Without Root such names go to [Options.OpenBacking].
func OpenFile(name string, o *Options) (*Image, error) {
	opts := o.withDefaults()
	f, err := imagefile.Open(name, imagefile.Options{Root: opts.Root, Write: opts.Write, NoLock: opts.NoLock})
	if err != nil {
		return nil, fmt.Errorf("qed: %w", err)
	}
	return openImage(f, opts)
}

// openImage opens the image f, and closes f if that does not succeed.
func openImage(f *imagefile.File, o Options) (img *Image, err error) {
	if o.Root != nil && o.OpenBacking == nil {
		below := Options{Root: o.Root, BackingFormat: o.BackingFormat, CacheSize: o.CacheSize}
		o.OpenBacking = func(name, format string) (Disk, error) { return openBacking(f, below, name, format) }
	}
	if o.Write {
		img, err = OpenRW(f.File, &o)
	} else {
		img, err = Open(f.File, &o)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	img.file = f.File
	return img, nil
}

// openBacking opens the backing file that the image f names.
func openBacking(f *imagefile.File, o Options, name, format string) (Disk, error) {
	if format != "raw" && format != "qed" {
		return nil, &UnsupportedError{Feature: fmt.Sprintf("backing file of format %q", format)}
	}
	b, err := f.OpenBacking(name)
	if err != nil {
		return nil, err
	}
	if format == "raw" {
		return block.RawFile(b.File)
	}
	return openImage(b, o)
}
