package imgopen

import (
	"errors"
	"io/fs"
	"os"

	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/qcow2"
)

// A temporaryFile takes what is written to an image that is open with
// [Options.Temporary]. It is gone when it is closed; where the system allows
// it, it has no name from the beginning.
type temporaryFile struct {
	unsynced // nothing of it outlives the program
	name     string
	base     *Image
}

// Sync does nothing.
func (t *temporaryFile) Sync() error { return nil }

// Close closes and removes the file, and closes the image below.
func (t *temporaryFile) Close() error {
	err := errors.Join(t.f.Close(), t.base.Close())
	if rm := os.Remove(t.name); rm != nil && !errors.Is(rm, os.ErrNotExist) {
		err = errors.Join(err, rm)
	}
	return err
}

// openTemporary opens an image for reading, and a temporary one over it for
// what is written.
func openTemporary(name string, o *Options) (*Image, error) {
	under := *o
	under.Temporary, under.Write = false, false
	base, err := Open(name, &under)
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp("", "virtfmt-*.qcow2")
	if err != nil {
		return nil, &Error{name, errors.Join(err, base.Close())}
	}
	_ = os.Remove(f.Name()) // where it cannot be, Close does it
	t := &temporaryFile{unsynced{f}, f.Name(), base}
	im, err := qcow2.Create(t, base.Size(), &qcow2.CreateOptions{BackingFile: "base", BackingFormat: "raw"})
	if err == nil {
		err = im.Close()
	}
	var img *Image
	if err == nil {
		own := *o
		own.Discard = base.Discards()
		img, err = t.open(name, &own)
	}
	if err != nil {
		return nil, &Error{name, errors.Join(err, t.Close())}
	}
	return img, nil
}

// open opens the temporary image.
func (t *temporaryFile) open(name string, o *Options) (*Image, error) {
	opts := &qcow2.Options{OpenBacking: func(string, string) (block.Disk, error) {
		return struct {
			block.Disk
			block.Clusterer
			block.HostFiler
		}{t.base, t.base, t.base}, nil // without Close
	}}
	var im *qcow2.Image
	var err error
	if o.Write {
		im, err = qcow2.OpenRW(t, opts)
	} else {
		im, err = qcow2.Open(t, opts)
	}
	if err != nil {
		return nil, err
	}
	s := &Source{Name: name, Path: t.base.Path, Format: "qcow2", File: t, detect: t.base.detect, o: o, opened: o, given: newOptions(name)}
	return &Image{Disk: im, Source: s, Qcow2: im, Below: t.base}, nil
}

// Reopen closes an image and opens it again as o says. If that fails, the image
// that it returns beside the error is open as before, where that is possible.
// A temporary image keeps what was written to it.
func (img *Image) Reopen(o *Options) (*Image, error) {
	o = o.withDefaults()
	before := *img.opened
	before.Warn = func(string) {}
	again, err := img.reopen(o)
	if err == nil {
		return again, nil
	}
	old, errOld := img.reopen(&before)
	return old, errors.Join(err, errOld)
}

func (img *Image) reopen(o *Options) (*Image, error) {
	t, ok := img.File.(*temporaryFile)
	if !ok {
		if err := img.Close(); err != nil && !errors.Is(err, fs.ErrClosed) {
			return nil, err
		}
		return Open(img.given.name, o)
	}
	given, err := parseList(o.With)
	if err != nil {
		return nil, err
	}
	own, err := given.common(o)
	if err == nil {
		for _, k := range []string{"l2-cache-size", "cache-size", "encrypt.key-secret"} { // as it is small, and not encrypted
			given.take(k)
		}
		err = given.finish("qcow2")
	}
	if err == nil {
		err = img.closeDisk()
	}
	if err != nil {
		return nil, err
	}
	again, err := t.open(img.Name, own)
	if err != nil {
		return nil, err
	}
	again.opened, again.detect = o, given.detectZeroes()
	return again, nil
}
