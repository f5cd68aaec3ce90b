package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/virtfmt/virtfmt/qcow2"
	"github.com/virtfmt/virtfmt/vma"
)

// A conversion makes the files of a directory out of an archive: a qcow2 image
// of each disk, the configs, and the state of the machine as it is.
type conversion struct {
	c      *command
	dir    *os.Root
	encode *qcow2.EncodeOptions
	names  map[string]bool
	files  []image
}

// An image is a file that gets its name once it is whole.
type image struct {
	name string
	f    *os.File
	im   *qcow2.Image // nil once or unless it is written at random
}

const temporary = "tmp-"

func (c *command) convert(in *input, o options, args []string) (err error) {
	v := &conversion{c: c, encode: &qcow2.EncodeOptions{Create: &qcow2.CreateOptions{}}, names: make(map[string]bool)}
	switch z := o.last('z', ""); z {
	case "":
	case "deflate":
		v.encode.Compress = true
	case "zstd":
		v.encode.Compress, v.encode.Create.CompressionType = true, qcow2.CompressionZstd
	default:
		return fmt.Errorf("%w: no compression %q", errUsage, z)
	}
	if v.encode.Compress && in.file == nil {
		return errors.New("only a file that is not compressed can become compressed images")
	}
	x, err := in.extractor(c)
	if err != nil {
		return err
	}
	h := x.Header()
	chosen := c.chooser(&h, o)
	if chosen == nil {
		chosen = func(vma.DeviceInfo) bool { return true }
	}
	if err := os.Mkdir(args[0], 0o777); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if v.dir, err = os.OpenRoot(args[0]); err != nil {
		return err
	}
	defer v.dir.Close()
	var report *vma.Report
	if in.file != nil {
		report, err = v.fromFile(in.archive, chosen)
	} else {
		report, err = v.fromStream(x, chosen)
	}
	err = errors.Join(err, v.finish(err == nil))
	return c.lossy(report, err, o)
}

// fromFile writes one image after the other, each from its start to its end.
func (v *conversion) fromFile(a *vma.Archive, chosen func(vma.DeviceInfo) bool) (*vma.Report, error) {
	vmstate := a.VMState()
	report, err := vma.ExtractDir(v.c.ctx, a, v.dir, &vma.DirOptions{Select: func(d vma.DeviceInfo) bool {
		return chosen(d) && vmstate != nil && d.ID == vmstate.Info().ID
	}})
	if err != nil {
		return report, err
	}
	for _, d := range a.Devices() {
		if d.IsVMState() || !chosen(d.Info()) {
			continue
		}
		f, err := v.create(d.Info())
		if err != nil {
			return report, err
		}
		b := v.c.bar(d.Name())
		o := *v.encode
		o.Progress = b.show
		err = qcow2.Encode(v.c.ctx, f, d, &o)
		b.done(err == nil)
		if err != nil {
			return report, err
		}
	}
	return report, nil
}

// fromStream writes all images at once, in the order of the archive.
func (v *conversion) fromStream(x vma.Extractor, chosen func(vma.DeviceInfo) bool) (*vma.Report, error) {
	h := x.Header()
	vm, ok := h.VMState()
	b := v.c.bar("all disks")
	report, err := vma.ExtractDir(v.c.ctx, x, v.dir, &vma.DirOptions{
		Select:   chosen,
		Progress: func(p vma.Progress) { b.show(p.Done, p.Total) },
		Target: func(d vma.DeviceInfo) (*vma.Target, error) {
			if ok && d.ID == vm.ID {
				return nil, nil
			}
			if d.Size == 0 {
				return nil, fmt.Errorf("the size of %s is not known: extract it instead", d.Name)
			}
			f, err := v.create(d)
			if err != nil {
				return nil, err
			}
			im, err := qcow2.Create(f, d.Size, v.encode.Create)
			if err != nil {
				return nil, err
			}
			v.files[len(v.files)-1].im = im
			return &vma.Target{W: im, Zeroed: true, Whole: true}, nil
		},
	})
	b.done(err == nil)
	return report, err
}

// create makes the file of a device, under a temporary name.
func (v *conversion) create(d vma.DeviceInfo) (*os.File, error) {
	name := vma.SafeName(d.Name) + ".qcow2"
	for i := 2; v.names[strings.ToLower(name)]; i++ {
		name = fmt.Sprintf("%s~%d.qcow2", vma.SafeName(d.Name), i)
	}
	v.names[strings.ToLower(name)] = true
	if _, err := v.dir.Lstat(name); err == nil {
		return nil, &os.PathError{Op: "create", Path: name, Err: os.ErrExist}
	}
	f, err := v.dir.OpenFile(temporary+name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err == nil {
		v.files = append(v.files, image{name: name, f: f})
	}
	return f, err
}

// finish closes the images, and gives them their names if all are whole.
func (v *conversion) finish(whole bool) (err error) {
	for _, i := range v.files {
		if i.im != nil {
			err = errors.Join(err, i.im.Close())
		}
		err = errors.Join(err, i.f.Close())
	}
	for _, i := range v.files {
		if whole && err == nil {
			err = v.dir.Rename(temporary+i.name, i.name)
		}
	}
	return err
}
