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
	o, err := given.common(o)
	if err != nil {
		return nil, err
	}
	file := given.sub("file")
	s := &Source{Format: driver, o: o, given: given}
	s.detect = given.detectZeroes()
	switch {
	case driver == "file" || driver == "host_device":
		if !file.empty() { // a file name on its own
			maps.Copy(given.value, file.value)
		}
		file = given
		file.value["driver"] = driver
	case file.empty() && driver == "":
		return nil, messagef("Must specify either driver or file")
	case driver != "" && !known(driver):
		return nil, unknownDriver(driver)
	case file.empty():
		return nil, messagef(`A block device must be specified for "file"`)
	}
	if err := s.openStorage(file, chain); err != nil {
		return nil, err
	}
	if driver == "" {
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

// detectZeroes reports whether zeros that are written are to be looked for.
func (o options) detectZeroes() bool {
	text := o.value["detect-zeroes"]
	return text == "on" || text == "unmap"
}

// Foreign reports whether QEMU's tools have a format or a protocol that this
// package has not.
func Foreign(driver string) bool { return slices.Contains(foreignDrivers(), driver) }

// unknownDriver refuses a driver.
func unknownDriver(name string) error {
	if Foreign(name) {
		return messagef("Driver '%s' is not supported", name)
	}
	return messagef("Unknown driver '%s'", name)
}

// foreignDrivers returns those that QEMU's tools have and this package has not:
// formats, protocols and filters.
func foreignDrivers() []string {
	return []string{
		"blkdebug", "blklogwrites", "blkreplay", "blkverify", "bochs", "cloop", "compress", "copy-before-write", "copy-on-read", "dmg", "ftp", "ftps", "gluster",
		"host_cdrom", "http", "https", "io_uring", "iscsi", "luks", "nbd", "nfs", "null-aio", "null-co", "nvme", "nvme-io_uring", "parallels", "preallocate", "qcow",
		"quorum", "rbd", "replication", "snapshot-access", "ssh", "throttle", "vdi", "vhdx", "virtio-blk-vfio-pci", "virtio-blk-vhost-user",
		"virtio-blk-vhost-vdpa", "vmdk", "vpc", "vvfat",
	}
}

func known(format string) bool {
	switch format {
	case "qcow2", "qed", "raw", "vma", "file", "host_device":
		return true
	}
	return false
}

// openStorage opens the file of an image, which may be an image itself.
func (s *Source) openStorage(o options, chain []os.FileInfo) error {
	settings, err := o.common(s.o)
	if err != nil {
		return err
	}
	driver, _ := o.take("driver")
	switch {
	case driver == "raw":
		return s.openPart(o, settings, chain)
	case driver == "" || driver == "file" || driver == "host_device":
	case known(driver):
		o.value["driver"] = driver
		return s.openInner(o, settings, chain)
	default:
		return unknownDriver(driver)
	}
	name, ok := o.take("filename")
	if !ok || name == "" {
		return messagef("The 'file' block driver requires a file name")
	}
	locking := o.value["locking"]
	if err := o.finish("file"); err != nil {
		return err
	}
	aio, given := o.value["aio"]
	if !given {
		aio = settings.AIO
	}
	if aio == "native" && !settings.Direct {
		return messagef("aio=native was specified, but it requires cache.direct=on, which was not specified.")
	}
	f, osFile, err := openFile(name, settings, locking != "off")
	if err != nil {
		return err
	}
	fi, err := osFile.Stat()
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
func openFile(name string, o *Options, lock bool) (File, *os.File, error) {
	flag := os.O_RDONLY
	if o.Write {
		flag = os.O_RDWR
	}
	if o.Sync {
		flag |= os.O_SYNC
	}
	// A FIFO would block, and a folder cannot be read.
	if fi, err := os.Stat(name); err == nil && fi.Mode()&(fs.ModeDir|fs.ModeNamedPipe|fs.ModeSocket) != 0 {
		return nil, nil, messagef("'file' driver requires '%s' to be a regular file", name)
	}
	var f File
	var osFile *os.File
	var err error
	if o.Direct {
		f, osFile, err = openDirect(name, flag, o.Warn)
	} else {
		osFile, err = os.OpenFile(name, flag, 0)
		f = osFile
	}
	if err != nil {
		return nil, nil, &Error{name, &osError{err}}
	}
	if lock && !o.NoLock {
		if err := imagelock.Lock(osFile, o.Write); err != nil {
			return nil, nil, errors.Join(&lockError{name, err}, f.Close())
		}
	}
	return f, osFile, nil
}

// OpenDirect opens a file for writing, past the page cache. It takes no locks.
func OpenDirect(name string, o *Options) (File, error) {
	own := o.withDefaults()
	own.Write, own.Direct = true, true
	f, _, err := openFile(name, own, false)
	return f, err
}

// openPart opens a part of a file.
func (s *Source) openPart(o options, settings *Options, chain []os.FileInfo) error {
	text := make(map[string]string)
	for _, k := range []string{"offset", "size"} {
		if v, ok := o.value[k]; ok {
			text[k] = o.quoted(k, v)
		}
	}
	offset, size, err := o.part()
	if err != nil {
		return err
	}
	file := o.sub("file")
	if file.empty() {
		return messagef(`A block device must be specified for "file"`)
	}
	outer := s.o
	s.o = settings
	err = s.openStorage(file, chain)
	s.o = outer
	if err != nil {
		return err
	}
	if err := o.finish("raw"); err != nil {
		return errors.Join(err, s.Close())
	}
	f, err := part(s.File, offset, size)
	if err != nil {
		return errors.Join(err, s.Close())
	}
	inside := s.inner()
	s.inside = "{"
	if t, ok := text["offset"]; ok {
		s.inside += `"offset": ` + t + ", "
	}
	s.inside += `"driver": "raw", `
	if t, ok := text["size"]; ok {
		s.inside += `"size": ` + t + ", "
	}
	s.inside += `"file": ` + inside + "}"
	s.File = f
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

// inner returns what lies in the file of the image, in JSON.
func (s *Source) inner() string {
	if s.inside != "" {
		return s.inside
	}
	return fmt.Sprintf(`{"driver": "file", "filename": %s}`, quote(s.Path))
}

// setName sets the name that is printed: a path, unless options say what no
// path can.
func (s *Source) setName(given options) {
	s.Name = s.Path
	if proto, _ := splitProtocol(s.Path); proto != "" {
		s.Name = "./" + s.Path // or it would be one
	}
	var before, after strings.Builder
	for _, k := range []string{"encrypt.key-secret", "offset", "device"} {
		if v, ok := given.value[k]; ok {
			fmt.Fprintf(&before, "%s: %s, ", quote(k), given.quoted(k, v))
		}
	}
	if v, ok := given.value["size"]; ok {
		fmt.Fprintf(&after, `"size": %s, `, given.quoted("size", v))
	}
	if s.inside == "" && before.Len()+after.Len() == 0 {
		return
	}
	s.Name = fmt.Sprintf(`json:{%s"driver": %s, %s"file": %s}`, &before, quote(s.Format), &after, s.inner())
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
