package qcow2

import (
	"fmt"

	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/internal/imagefile"
)

// OpenFile opens the image with a path, as o says. Close closes the file.
//
// With [Options.Root] the path, and the names of backing and data files that
// the image and its backing files contain, are resolved inside that directory:
// neither "..", nor symbolic links, nor absolute names lead out of it. Only
// regular files are opened, as raw or qcow2 as the image says, backing files
// for reading and with no option but Root, NoLock and CacheSize, which is that
// of each: one that is encrypted, or does not tell the format of its own, needs
// [Options.OpenBacking]. Without Root such names go to that and to
// [Options.OpenData].
func OpenFile(name string, o *Options) (*Image, error) {
	opts := o.withDefaults()
	f, err := imagefile.Open(name, imagefile.Options{Root: opts.Root, Write: opts.Write, NoLock: opts.NoLock})
	if err != nil {
		return nil, fmt.Errorf("qcow2: %w", err)
	}
	return openImage(f, opts)
}

// openImage opens the image f, and closes f if that does not succeed.
func openImage(f *imagefile.File, o Options) (_ *Image, err error) {
	if o.Root != nil {
		if o.OpenBacking == nil {
			below := Options{Root: o.Root, CacheSize: o.CacheSize}
			o.OpenBacking = func(name, format string) (Disk, error) { return openBacking(f, below, name, format) }
		}
		if o.OpenData == nil {
			o.OpenData = func(name string, write bool) (File, error) { return f.OpenData(name, write) }
		}
	}
	var im *Image
	if o.Write {
		im, err = openRW(f.File, o)
	} else {
		im, err = open(f.File, nil, o)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	im.closeLater(f.File)
	return im, nil
}

// openBacking opens the backing file that the image f names.
func openBacking(f *imagefile.File, o Options, name, format string) (Disk, error) {
	if format != "raw" && format != "qcow2" {
		return nil, unsupportedf("backing file of format %q", format)
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
