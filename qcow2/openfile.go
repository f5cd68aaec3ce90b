package qcow2

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/internal/imagelock"
)

// OpenFile opens the image with a path, as o says. Close closes the file.
//
// With [Options.Root] the path, and the names of backing and data files that
// the image and its backing files contain, are resolved inside that directory:
// neither "..", nor symbolic links, nor absolute names lead out of it. Only
// regular files are opened, as raw or qcow2 as the image says. Without Root
// such names go to [Options.OpenBacking] and [Options.OpenData].
func OpenFile(name string, o *Options) (*Image, error) {
	opts := o.withDefaults()
	t := tree{root: opts.Root, noLock: opts.NoLock}
	if opts.Root == nil {
		f, err := os.OpenFile(name, opts.openFlag(), 0)
		if err != nil {
			return nil, fmt.Errorf("qcow2: %w", err)
		}
		return t.openImage(f, "", opts)
	}
	rel, err := t.resolve(".", name)
	if err != nil {
		return nil, fmt.Errorf("qcow2: %w", err)
	}
	f, err := t.open(rel, opts.openFlag())
	if err != nil {
		return nil, fmt.Errorf("qcow2: %w", err)
	}
	return t.openImage(f, rel, opts)
}

// A tree opens the files that an image names, inside of a directory.
type tree struct {
	root   *os.Root
	noLock bool
	chain  []fs.FileInfo // the images above
}

// openImage opens the image f, whose path inside the root is rel. It closes f
// if that does not succeed.
func (t tree) openImage(f *os.File, rel string, o Options) (_ *Image, err error) {
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if err := t.lock(f, o.Write); err != nil {
		return nil, fmt.Errorf("qcow2: %w", err)
	}
	if t.root != nil {
		fi, err := f.Stat()
		if err != nil {
			return nil, fmt.Errorf("qcow2: %w", err)
		}
		below := tree{t.root, t.noLock, append(slices.Clip(t.chain), fi)}
		if o.OpenBacking == nil {
			o.OpenBacking = func(name, format string) (Disk, error) { return below.openBacking(filepath.Dir(rel), name, format) }
		}
		if o.OpenData == nil {
			o.OpenData = func(name string, write bool) (File, error) { return below.openData(filepath.Dir(rel), name, write) }
		}
	}
	var im *Image
	if o.Write {
		im, err = openRW(f, o)
	} else {
		im, err = open(f, nil, o)
	}
	if err != nil {
		return nil, err
	}
	im.closeLater(f)
	return im, nil
}

func (o *Options) openFlag() int {
	if o.Write {
		return os.O_RDWR
	}
	return os.O_RDONLY
}

// openBacking opens the backing file that an image in dir names.
func (t tree) openBacking(dir, name, format string) (Disk, error) {
	if len(t.chain) >= maxBackingChain {
		return nil, fmt.Errorf("%d layers: %w of %d", len(t.chain), ErrLimit, maxBackingChain)
	}
	if format != "raw" && format != "qcow2" {
		return nil, unsupportedf("backing file of format %q", format)
	}
	rel, err := t.resolve(dir, name)
	if err != nil {
		return nil, err
	}
	f, err := t.open(rel, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	if slices.ContainsFunc(t.chain, func(above fs.FileInfo) bool { return os.SameFile(above, fi) }) {
		f.Close()
		return nil, errors.New("the image backs itself")
	}
	if format == "raw" {
		if err := t.lock(f, false); err != nil {
			f.Close()
			return nil, err
		}
		return rawFile{block.Raw(f, fi.Size()), f}, nil
	}
	return t.openImage(f, rel, (*Options)(nil).withDefaults())
}

// openData opens the data file that an image in dir names.
func (t tree) openData(dir, name string, write bool) (File, error) {
	rel, err := t.resolve(dir, name)
	if err != nil {
		return nil, err
	}
	flag := os.O_RDONLY
	if write {
		flag = os.O_RDWR
	}
	f, err := t.open(rel, flag)
	if err != nil {
		return nil, err
	}
	if err := t.lock(f, write); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// lock takes locks on a file, if it is to.
func (t tree) lock(f *os.File, write bool) error {
	if t.noLock {
		return nil
	}
	return imagelock.Lock(f, write)
}

var protocol = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*:`)

// resolve returns the path inside the root of what an image in dir names.
func (t tree) resolve(dir, name string) (string, error) {
	switch {
	case name == "":
		return "", errors.New("the name is empty")
	case filepath.IsAbs(name):
		base, err := filepath.Abs(t.root.Name())
		if err != nil {
			return "", err
		}
		rel, err := filepath.Rel(base, name)
		if err != nil || !filepath.IsLocal(rel) {
			return "", fmt.Errorf("%q lies outside of %s", name, base)
		}
		return rel, nil
	case protocol.MatchString(name):
		return "", fmt.Errorf("%q: %w: names with a protocol", name, errors.ErrUnsupported)
	}
	return filepath.Join(dir, name), nil
}

// open opens a regular file inside the root. Anything else, such as a FIFO,
// could block or have effects.
func (t tree) open(rel string, flag int) (*os.File, error) {
	fi, err := t.root.Stat(rel)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", rel)
	}
	f, err := t.root.OpenFile(rel, flag, 0)
	if err != nil {
		return nil, err
	}
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		f.Close()
		return nil, errors.Join(err, fmt.Errorf("%s is not a regular file", rel))
	}
	return f, nil
}

// A rawFile is a file without a format, which it closes.
type rawFile struct {
	block.Disk
	f *os.File
}

func (d rawFile) Close() error { return d.f.Close() }

// HostFile returns the file, for [block.HostFiler].
func (d rawFile) HostFile(depth int) io.ReaderAt { return d.Disk.(block.HostFiler).HostFile(depth) }
