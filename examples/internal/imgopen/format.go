package imgopen

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"strings"

	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/qcow2"
	"github.com/virtfmt/virtfmt/qed"
	"github.com/virtfmt/virtfmt/vma"
)

// sectorSize is what the size of a disk is a multiple of.
const sectorSize = 512

// unknownFormat stands for the format of a backing file where the image does
// not tell it. It is found out then.
const unknownFormat = "\x00"

// open opens the image in s.
func (s *Source) open() (*Image, error) {
	img := &Image{Source: s}
	if s.Probed && s.Format == "raw" && s.o.Write {
		s.o.Warn(fmt.Sprintf(`WARNING: Image format was not specified for '%s' and probing guessed raw.
         Automatically detecting the format is dangerous for raw images, write operations on block 0 will be restricted.
         Specify the 'raw' format explicitly to remove the restrictions.`, s.Name))
		s.File = guarded{s.File}
	}
	if err := s.takeBacking(); err != nil {
		return nil, err
	}
	var err error
	switch s.Format {
	case "qcow2":
		err = img.openQcow2()
	case "qed":
		err = img.openQED()
	case "vma":
		err = img.openVMA()
	case "raw":
		err = img.openRaw()
	default:
		img.Raw = s.File
		err = img.setRaw(s.File)
	}
	if err != nil {
		return nil, err
	}
	if err := s.given.finish(s.Format); err != nil {
		return nil, errors.Join(err, img.closeDisk())
	}
	return img, nil
}

// takeBacking takes the option that says that an image has no backing file,
// whatever it says itself.
func (s *Source) takeBacking() error {
	text, given := s.given.value["backing"]
	if s.Format != "qcow2" && s.Format != "qed" || !given && !s.given.null["backing"] {
		return nil
	}
	if text != "" {
		return &backingError{"backing file", messagef("Cannot find device='%s' nor node-name='%s'", text, text)}
	}
	delete(s.given.value, "backing")
	delete(s.given.null, "backing")
	o := *s.o
	o.NoBacking = true
	s.o = &o
	return nil
}

func (img *Image) closeDisk() error {
	if c, ok := img.Disk.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

func (img *Image) openRaw() error {
	offset, size, err := img.given.part()
	if err != nil {
		return err
	}
	f := img.File
	if offset != 0 || size >= 0 {
		if f, err = part(f, offset, size); err != nil {
			return err
		}
	}
	return img.setRaw(f)
}

func (img *Image) setRaw(f File) error {
	d, err := rawDisk(f)
	if err != nil {
		return err
	}
	img.Raw, img.Disk = f, d
	return nil
}

func (img *Image) openVMA() error {
	name, named := img.given.take("device")
	a, err := vma.OpenContext(img.o.Context, img.File, nil)
	if err != nil {
		return err
	}
	var names []string
	for _, d := range a.Devices() {
		if d.IsVMState() {
			continue
		}
		names = append(names, d.Name())
		if !named || d.Name() == name {
			img.Device = d
		}
	}
	if img.Device == nil || !named && len(names) > 1 {
		return messagef("Say which device, one of %s: as vma:DEVICE:FILE, or driver=vma,device=DEVICE,file.filename=FILE", strings.Join(names, " "))
	}
	img.Archive, img.Disk = a, img.Device
	return nil
}

// storage returns the file of an image that is written.
func (s *Source) storage() block.File {
	if s.o.NoSync {
		return unsynced{s.File}
	}
	return s.File
}

func (img *Image) openQED() error {
	o := &qed.Options{BackingFormat: unknownFormat, OpenBacking: img.openBacking}
	var im *qed.Image
	var err error
	if img.o.Write {
		im, err = qed.OpenRW(img.storage(), o)
	} else {
		im, err = qed.Open(img.File, o)
	}
	if errors.Is(err, qed.ErrFormat) {
		return messagef("Image not in QED format")
	}
	if err != nil {
		return inBacking(err)
	}
	img.Qed, img.Disk = im, im
	return nil
}

func (img *Image) openQcow2() error {
	o := &qcow2.Options{
		Context: img.o.Context, MetadataOnly: img.o.MetadataOnly,
		BackingFormat: unknownFormat, OpenBacking: img.openBacking, OpenData: img.openData,
	}
	secret, haveKey := img.given.take("encrypt.key-secret")
	encryption, _ := img.given.take("encrypt.format")
	for _, k := range []string{"l2-cache-size", "cache-size"} {
		if text, ok := img.given.take(k); ok {
			if err := (kind{of: 's'}).check("qcow2", k, text); err != nil {
				return err
			}
			o.CacheSize, _ = ParseSize(text)
		}
	}
	o.Passphrase = func() ([]byte, error) {
		if !haveKey {
			return nil, messagef("Parameter 'encrypt.key-secret' is required for cipher")
		}
		return img.o.Secrets.Get(secret)
	}
	var im *qcow2.Image
	var err error
	if img.o.Write {
		im, err = qcow2.OpenRW(img.storage(), o)
	} else {
		im, err = qcow2.Open(img.File, o)
	}
	switch {
	case errors.Is(err, qcow2.ErrFormat):
		return messagef("Image is not in qcow2 format")
	case errors.Is(err, qcow2.ErrPassphrase):
		return messagef("Invalid password, cannot unlock any keyslot")
	case err != nil:
		return inBacking(err)
	}
	if has := methodName(im.Header().CryptMethod); encryption != "" && encryption != has {
		return errors.Join(messagef("Header reported '%s' encryption format but options specify '%s'", has, encryption), im.Close())
	}
	if on, _ := Switch(img.given.value["lazy-refcounts"]); on && im.Header().Version < 3 {
		return errors.Join(messagef("Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level"), im.Close())
	}
	img.Qcow2, img.Disk, img.Key = im, im, secret
	return nil
}

// methodName returns what QEMU calls a way to encrypt.
func methodName(m qcow2.CryptMethod) string {
	switch m {
	case qcow2.CryptAES:
		return "aes"
	case qcow2.CryptLUKS:
		return "luks"
	}
	return ""
}

// A backingError is one of a backing or data file.
type backingError struct {
	what string
	err  error
}

func (e *backingError) Error() string { return fmt.Sprintf("Could not open %s: %v", e.what, e.err) }
func (e *backingError) Unwrap() error { return e.err }

// inBacking returns the part of err that speaks of another file.
func inBacking(err error) error {
	var b *backingError
	var m message
	switch {
	case errors.As(err, &b):
		return b
	case errors.As(err, &m):
		return m
	}
	return err
}

// openBacking opens the backing file that an image names.
func (img *Image) openBacking(name, format string) (block.Disk, error) {
	if img.o.NoBacking || img.o.MetadataOnly {
		return block.Raw(bytes.NewReader(nil), 0), nil
	}
	over := img.given.sub("backing")
	b, err := img.openLayer(over, Resolve(img.Path, name), format)
	if err != nil {
		return nil, &backingError{"backing file", err}
	}
	img.Below = b
	return b, nil
}

// openLayer opens a backing file, by options that were given for it and
// otherwise by what the image says.
func (img *Image) openLayer(over options, name, format string) (*Image, error) {
	given, err := parseFilename(name)
	if err != nil {
		return nil, err
	}
	if format != unknownFormat {
		given.value["driver"] = format
	}
	if _, ok := over.value["file.filename"]; ok {
		delete(given.value, "file.filename")
	}
	maps.Copy(given.value, over.value)
	maps.Copy(given.null, over.null)
	o := *img.o
	o.Format, o.Write, o.ImageOpts = "", o.WriteLayer == 1, false
	o.WriteLayer = max(0, o.WriteLayer-1)
	s, err := find(given, &o, img.chain)
	if err != nil {
		return nil, err
	}
	b, err := s.open()
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return b, nil
}

// openData opens the external data file that an image names, or which was
// given for it. A name is a path here, whatever it looks like.
func (img *Image) openData(name string, write bool) (qcow2.File, error) {
	over := img.given.sub("data-file")
	settings, err := over.common(img.o)
	if err != nil {
		return nil, err
	}
	if d, ok := over.take("driver"); ok && d != "file" {
		return nil, &backingError{"data file", messagef("A data file of driver '%s' is not supported", d)}
	}
	if d, ok := over.take("file.driver"); ok && d != "file" {
		return nil, &backingError{"data file", messagef("A data file of driver '%s' is not supported", d)}
	}
	if n, ok := over.take("filename"); ok {
		name = n
	} else if n, ok := over.take("file.filename"); ok {
		name = n
	} else {
		if name == "" {
			return nil, &backingError{"data file", messagef("'data-file' is required for this image")}
		}
		name = resolvePath(img.Path, name)
	}
	if err := over.finish("file"); err != nil {
		return nil, err
	}
	o := *settings
	o.Write = write
	f, _, err := openFile(name, &o, true)
	if err != nil {
		return nil, &backingError{"data file", err}
	}
	img.Data = name
	return f, nil
}

var _ File = (*os.File)(nil)
