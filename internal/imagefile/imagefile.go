// Package imagefile opens image files by name, and the files that they name,
// inside of a directory that the caller grants.
//
// Nothing but regular files is opened, neither "..", nor symbolic links, nor
// absolute names lead out of the directory, and a chain of backing files has
// an end.
package imagefile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/virtfmt/virtfmt/internal/imagelock"
	"github.com/virtfmt/virtfmt/internal/safeio"
)

// maxChain is how many images are opened on top of each other. QEMU has no
// limit.
const maxChain = 256

// ErrNotGranted means that an image names a file that it was not granted. It is
// also [fs.ErrPermission].
var ErrNotGranted error = notGranted{}

type notGranted struct{}

func (notGranted) Error() string        { return "opening it was not granted" }
func (notGranted) Is(target error) bool { return target == fs.ErrPermission }

// Options says how files are opened.
type Options struct {
	Root   *os.Root // where names are resolved; nil: by the system
	Write  bool
	NoLock bool // take no locks
}

// A File is an image file that is open.
type File struct {
	*os.File
	o     Options
	dir   string        // inside of the root, what the names in it are relative to
	chain []fs.FileInfo // the images above this one, and itself
}

// Open opens an image file and locks it. With a root the name, relative to it
// or absolute, must lie inside.
func Open(name string, o Options) (*File, error) {
	if o.Root == nil {
		// A FIFO would block, and neither it nor a socket can hold an image.
		if fi, err := os.Stat(name); err == nil && fi.Mode()&(fs.ModeNamedPipe|fs.ModeSocket) != 0 {
			return nil, fmt.Errorf("%s is neither a regular file nor a device", name)
		}
		f, err := os.OpenFile(name, flag(o.Write), 0)
		if err != nil {
			return nil, err
		}
		return locked(&File{File: f, o: o}, o.Write)
	}
	return (&File{o: o, dir: "."}).open(name, o.Write)
}

// OpenBacking opens the backing file that an image names, for reading.
//
// Preconditions: f was opened with a root.
func (f *File) OpenBacking(name string) (*File, error) {
	if len(f.chain) >= maxChain {
		return nil, fmt.Errorf("%d layers: %w of %d", len(f.chain), safeio.ErrLimit, maxChain)
	}
	return f.open(name, false)
}

// OpenData opens a file that an image names and that names no others.
//
// Preconditions: f was opened with a root.
func (f *File) OpenData(name string, write bool) (*os.File, error) {
	d, err := f.open(name, write)
	if err != nil {
		return nil, err
	}
	return d.File, nil
}

// open opens and locks what f names.
func (f *File) open(name string, write bool) (*File, error) {
	rel, err := f.resolve(name)
	if err != nil {
		return nil, err
	}
	file, fi, err := openRegular(f.o.Root, rel, write)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(f.chain, func(above fs.FileInfo) bool { return os.SameFile(above, fi) }) {
		file.Close()
		return nil, errors.New("the image backs itself")
	}
	return locked(&File{file, f.o, filepath.Dir(rel), append(slices.Clip(f.chain), fi)}, write)
}

// locked takes locks on f, if it is to, and closes f if it cannot.
func locked(f *File, write bool) (*File, error) {
	if f.o.NoLock {
		return f, nil
	}
	if err := imagelock.Lock(f.File, write); err != nil {
		f.Close()
		if errors.Is(err, imagelock.ErrLocked) {
			err = fmt.Errorf("%s: %w", f.Name(), err)
		}
		return nil, err
	}
	return f, nil
}

var protocol = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*:`)

// resolve returns the path inside of the root of what f names.
func (f *File) resolve(name string) (string, error) {
	var rel string
	switch {
	case name == "":
		return "", errors.New("the name is empty")
	case filepath.IsAbs(name):
		base, err := filepath.Abs(f.o.Root.Name())
		if err != nil {
			return "", err
		}
		// Without a way from one to the other, rel is empty, and not local.
		rel, _ = filepath.Rel(base, name)
	case protocol.MatchString(name):
		return "", fmt.Errorf("%q: %w: names with a protocol", name, errors.ErrUnsupported)
	default:
		rel = filepath.Join(f.dir, name)
	}
	if !filepath.IsLocal(rel) {
		return "", fmt.Errorf("%q lies outside of %s: %w", name, f.o.Root.Name(), ErrNotGranted)
	}
	return rel, nil
}

// openRegular opens a regular file inside of the root. Anything else, such as
// a FIFO, could block or have effects: it is not opened, and does not block if
// somebody puts it in place of the file in between.
func openRegular(root *os.Root, rel string, write bool) (*os.File, fs.FileInfo, error) {
	fi, err := root.Stat(rel)
	if err != nil {
		return nil, nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%s is not a regular file", rel)
	}
	f, err := root.OpenFile(rel, flag(write)|nonblock, 0)
	if err != nil {
		return nil, nil, err
	}
	if fi, err = f.Stat(); err != nil || !fi.Mode().IsRegular() {
		f.Close()
		return nil, nil, errors.Join(err, fmt.Errorf("%s is not a regular file", rel))
	}
	return f, fi, nil
}

func flag(write bool) int {
	if write {
		return os.O_RDWR
	}
	return os.O_RDONLY
}
