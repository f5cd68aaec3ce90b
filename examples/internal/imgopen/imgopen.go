// Package imgopen opens disk images by name for the programs that stand in for
// QEMU's, in the way those do it: a name is a path, "file:" and a path,
// "json:" and an object, or, where asked for, a list of options; a format that
// is not given is found out by looking at the image; backing and data files
// are found relative to the image that names them.
//
// It knows qcow2, qed, raw and vma. Unlike the library it opens what an image
// names without being told to: that is what these programs are used for.
package imgopen

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/qcow2"
	"github.com/virtfmt/virtfmt/qed"
	"github.com/virtfmt/virtfmt/vma"
)

// Options says how an image is opened. The zero value and nil are the
// defaults.
type Options struct {
	Context   context.Context // ends unlocking an encrypted image, and indexing an archive
	Format    string          // "" finds it out
	ImageOpts bool            // the name is a list of options: driver=qcow2,file.filename=NAME
	Write     bool
	NoLock    bool // take no image locks: -U
	Direct    bool // bypass the page cache
	Sync      bool // each write shall be durable
	NoSync    bool // nothing needs to be durable
	Discard   bool // what is discarded gives space back, unless options tell
	// With is a list of options, KEY=VALUE,..., beside those that the name
	// stands for.
	With string
	// Temporary opens the image for reading only. What is written goes to a
	// temporary file, which lasts as long as the image is open.
	Temporary bool
	// AIO is the way of access that stands for aio where options do not tell.
	AIO string
	// NoBacking opens no backing file. What it would hold reads as zeros.
	NoBacking bool
	// WriteLayer is the depth of a layer that is opened for writing too, such as
	// 1 for the backing file. 0 is none.
	WriteLayer int
	// MetadataOnly opens neither backing nor data file, and needs no key.
	MetadataOnly bool
	Secrets      Secrets
	// Warn is told of what is odd but no error.
	Warn func(message string)
}

// SetCache sets how an image is cached, by a word that option -t of QEMU's tools
// takes, and reports whether it is one; "" is the default.
func (o *Options) SetCache(mode string) bool {
	o.Direct, o.Sync, o.NoSync = false, false, false
	switch mode {
	case "none", "off":
		o.Direct = true
	case "directsync":
		o.Direct, o.Sync = true, true
	case "writethrough":
		o.Sync = true
	case "unsafe":
		o.NoSync = true
	case "writeback", "":
	default:
		return false
	}
	return true
}

func (o *Options) withDefaults() *Options {
	var c Options
	if o != nil {
		c = *o
	}
	if c.Context == nil {
		c.Context = context.Background()
	}
	if c.Warn == nil {
		c.Warn = func(string) {}
	}
	return &c
}

// An Error tells which image could not be opened. Its text is as QEMU's.
type Error struct {
	Name string
	Err  error
}

func (e *Error) Error() string { return fmt.Sprintf("Could not open '%s': %v", e.Name, e.Err) }

// Unwrap returns e.Err.
func (e *Error) Unwrap() error { return e.Err }

// A Source is an image file that was found, and not opened as an image yet.
type Source struct {
	Name   string // as it is printed
	Path   string // of the file
	Format string // qcow2, qed, raw, vma, or "file" for a file that is no image
	Probed bool   // the format was not given
	File   File   // its bytes

	o      *Options
	opened *Options      // o, as the caller gave it
	given  options       // those that are still to be used
	chain  []os.FileInfo // the files of the images above, and of this one
	inside string        // what lies in File, in JSON, if it is more than a file
	detect bool          // zeros that are written are made, not stored
}

// File is what an image lies in: an [*os.File], or a part of one.
type File interface {
	block.File
	io.Closer
	Sync() error
}

// An Image is an open image. It is a disk; exactly one of the fields Qcow2,
// Qed, Device and Raw is set.
type Image struct {
	block.Disk
	*Source
	Qcow2   *qcow2.Image
	Qed     *qed.Image
	Device  *vma.Device
	Raw     File
	Archive *vma.Archive // of Device
	Key     string       // the id of the secret that opened it, if it is encrypted
	Data    string       // the path of the external data file
	Below   *Image       // the backing file; nil if there is none, or it was not opened
}

// Open opens an image.
func Open(name string, o *Options) (*Image, error) {
	if o != nil && o.Temporary {
		return openTemporary(name, o.withDefaults())
	}
	s, err := Find(name, o)
	if err != nil {
		return nil, err
	}
	img, err := s.Open()
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return img, nil
}

// Find finds an image file and the format of it.
func Find(name string, o *Options) (*Source, error) {
	o = o.withDefaults()
	given, err := parseName(name, o)
	if err != nil {
		return nil, &Error{name, err}
	}
	s, err := find(given, o, nil)
	if err != nil {
		return nil, &Error{name, err}
	}
	s.opened = o
	return s, nil
}

// Open opens the image. If it fails the source is still to be closed,
// otherwise that is what closing the image does.
func (s *Source) Open() (*Image, error) {
	img, err := s.open()
	if err != nil {
		return nil, &Error{s.given.name, err}
	}
	return img, nil
}

// Close closes the file.
func (s *Source) Close() error { return s.File.Close() }

// Close closes the image and all that was opened for it.
func (img *Image) Close() error {
	var err error
	if c, ok := img.Disk.(io.Closer); ok {
		err = c.Close()
	}
	return errors.Join(err, img.Source.Close())
}

// Discards tells whether what is discarded is to give space back.
func (img *Image) Discards() bool { return img.o.Discard }

// ClusterSize returns the unit in which the image is stored, in bytes, or 0.
func (img *Image) ClusterSize() int64 {
	if c, ok := img.Disk.(block.Clusterer); ok {
		return c.ClusterSize()
	}
	return 0
}

// HostFile returns the file that holds the extents at a depth, or nil.
func (img *Image) HostFile(depth int) io.ReaderAt {
	if h, ok := img.Disk.(block.HostFiler); ok {
		return h.HostFile(depth)
	}
	return nil
}

// A Writer is an image that can be written. It may be a [block.ZeroWriter] and
// a [block.PunchHoler] too.
type Writer interface {
	io.WriterAt
	Sync() error
}

// Writer returns what the disk is written by, or nil if it cannot be.
func (img *Image) Writer() Writer {
	w := img.writer()
	if w != nil && img.detect {
		return detecting{w}
	}
	return w
}

func (img *Image) writer() Writer {
	switch {
	case !img.o.Write:
		return nil
	case img.Qcow2 != nil:
		return img.Qcow2
	case img.Qed != nil:
		return img.Qed
	case img.Raw != nil:
		return img.Raw
	}
	return nil
}

// Backing returns the disk of the backing file, or nil.
func (img *Image) Backing() block.Disk {
	if img.Below == nil {
		return nil
	}
	return img.Below
}

// Layer returns the image at a depth of the chain, nil where there is none.
func (img *Image) Layer(depth int) *Image {
	for ; depth > 0 && img != nil; depth-- {
		img = img.Below
	}
	return img
}

var (
	_ block.Disk      = (*Image)(nil)
	_ block.Clusterer = (*Image)(nil)
	_ block.HostFiler = (*Image)(nil)
)
