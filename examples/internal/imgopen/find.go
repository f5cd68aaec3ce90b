package imgopen

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/virtfmt/virtfmt/internal/imagelock"
)

// maxChain is how many images may lie on each other.
const maxChain = 256

// find finds the file that options name, and the format of it.
func find(given options, o *Options, chain []os.FileInfo) (*Source, error) {
	driver, _ := given.take("driver")
	if node, ok := given.take("file"); ok {
		return nil, messagef("Cannot find device='%s' nor node-name='%s'", node, node)
	}
	file := given.sub("file")
	s := &Source{Format: driver, o: o, given: given}
	switch {
	case driver == "file" || driver == "host_device":
		if !file.empty() { // a file name on its own
			maps.Copy(given.value, file.value)
		}
		file = given
		file.value["driver"] = driver
	case file.empty() && driver == "":
		return nil, messagef("Must specify either driver or file")
	case file.empty():
		return nil, messagef(`A block device must be specified for "file"`)
	case driver != "" && !known(driver):
		return nil, messagef("Unknown driver '%s'", driver)
	}
	if err := s.openStorage(file, chain); err != nil {
		return nil, err
	}
	if driver == "" {
		var err error
		if s.Format, err = probe(s.File); err != nil {
			return nil, errors.Join(err, s.Close())
		}
		s.Probed = true
		if !known(s.Format) {
			return nil, errors.Join(messagef("Format '%s' is not supported", s.Format), s.Close())
		}
	}
	s.setName(given)
	return s, nil
}

func known(format string) bool {
	switch format {
	case "qcow2", "qed", "raw", "vma", "file", "host_device":
		return true
	}
	return false
}

// openStorage opens the file of an image.
func (s *Source) openStorage(o options, chain []os.FileInfo) error {
	driver, _ := o.take("driver")
	switch driver {
	case "", "file", "host_device":
	case "raw":
		return s.openPart(o, chain)
	default:
		if !known(driver) {
			return messagef("Unknown driver '%s'", driver)
		}
		return messagef("An image inside of an image of format '%s' is not supported", driver)
	}
	name, ok := o.take("filename")
	if !ok || name == "" {
		return messagef("The 'file' block driver requires a file name")
	}
	locking, _ := o.take("locking")
	if err := o.finish("file"); err != nil {
		return err
	}
	f, err := openFile(name, s.o, locking != "off")
	if err != nil {
		return err
	}
	fi, err := f.Stat()
	if err == nil {
		err = enter(chain, fi)
	}
	if err != nil {
		return errors.Join(&Error{name, err}, f.Close())
	}
	s.Path, s.File, s.chain = name, f, append(slices.Clip(chain), fi)
	return nil
}

// enter refuses a file that is one of those above it, and chains that are too
// long.
func enter(chain []os.FileInfo, fi os.FileInfo) error {
	if len(chain) >= maxChain {
		return messagef("More than %d images lie on each other", maxChain)
	}
	if slices.ContainsFunc(chain, func(above fs.FileInfo) bool { return os.SameFile(above, fi) }) {
		return messagef("Backing file loop: the image backs itself")
	}
	return nil
}

// openFile opens a file, and locks it if it is to be.
func openFile(name string, o *Options, lock bool) (*os.File, error) {
	flag := os.O_RDONLY
	if o.Write {
		flag = os.O_RDWR
	}
	if o.Sync {
		flag |= os.O_SYNC
	}
	// A FIFO would block, and a folder cannot be read.
	if fi, err := os.Stat(name); err == nil && fi.Mode()&(fs.ModeDir|fs.ModeNamedPipe|fs.ModeSocket) != 0 {
		return nil, messagef("'file' driver requires '%s' to be a regular file", name)
	}
	f, err := os.OpenFile(name, flag, 0)
	if err != nil {
		return nil, &Error{name, &osError{err}}
	}
	if lock && !o.NoLock {
		if err := imagelock.Lock(f, o.Write); err != nil {
			return nil, errors.Join(&lockError{name, err}, f.Close())
		}
	}
	return f, nil
}

// openPart opens a part of a file.
func (s *Source) openPart(o options, chain []os.FileInfo) error {
	offset, size, err := o.part()
	if err != nil {
		return err
	}
	if err := s.openStorage(o.sub("file"), chain); err != nil {
		return err
	}
	if err := o.finish("raw"); err != nil {
		return errors.Join(err, s.Close())
	}
	s.File = part(s.File, offset, size)
	return nil
}

// part takes the options that make an image of a part of a file: size is -1
// for all that follows.
func (o options) part() (offset, size int64, err error) {
	size = -1
	for key, v := range map[string]*int64{"offset": &offset, "size": &size} {
		text, ok := o.take(key)
		if !ok {
			continue
		}
		if *v, err = ParseSize(text); err != nil {
			return 0, 0, messagef("Parameter '%s' expects a size", key)
		}
	}
	return offset, size, nil
}

// setName sets the name that is printed: a path, unless options say what no
// path can.
func (s *Source) setName(given options) {
	s.Name = s.Path
	_, inPart := s.File.(*filePart)
	var before, after strings.Builder
	for _, k := range []string{"encrypt.key-secret", "offset", "device"} {
		if v, ok := given.value[k]; ok {
			fmt.Fprintf(&before, "%s: %s, ", quote(k), quote(v))
		}
	}
	if v, ok := given.value["size"]; ok {
		fmt.Fprintf(&after, `"size": %s, `, quote(v))
	}
	if !inPart && before.Len()+after.Len() == 0 {
		return
	}
	file := fmt.Sprintf(`{"driver": "file", "filename": %s}`, quote(s.Path))
	if p, ok := s.File.(*filePart); ok {
		file = fmt.Sprintf(`{"offset": %d, "driver": "raw", "file": %s}`, p.offset, file)
	}
	s.Name = fmt.Sprintf(`json:{%s"driver": %s, %s"file": %s}`, &before, quote(s.Format), &after, file)
}

// An osError is an error of the system in the words of the C library.
type osError struct{ err error }

func (e *osError) Error() string {
	err := e.err
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	s := err.Error()
	return strings.ToUpper(s[:min(1, len(s))]) + s[min(1, len(s)):]
}

func (e *osError) Unwrap() error { return e.err }

// Reason returns an error of the system in the words of the C library, without
// the name of the file.
func Reason(err error) error { return &osError{err} }

// A lockError tells that an image is in use.
type lockError struct {
	name string
	err  error
}

func (e *lockError) Error() string {
	return fmt.Sprintf("Failed to get a lock: %v\nIs another process using the image [%s]?", e.err, e.name)
}

func (e *lockError) Unwrap() error { return e.err }
