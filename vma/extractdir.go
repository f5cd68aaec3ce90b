package vma

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// An Extractor is an archive that can be extracted: a [*Reader] or an
// [*Archive].
type Extractor interface {
	Header() Header
	Extract(ctx context.Context, o *ExtractOptions) (*Report, error)
}

// DirOptions says what [ExtractDir] extracts. nil and the zero value are the
// defaults.
type DirOptions struct {
	// Select says which devices are extracted, all by default.
	Select func(d DeviceInfo) bool
	// Target, where set, returns where a device goes instead of a file of the
	// directory, nil for a file.
	Target func(d DeviceInfo) (*Target, error)
	// Workers and Progress are those of [ExtractOptions].
	Workers  int
	Progress func(p Progress)
}

// ExtractDir extracts the archive src into files of the directory dir: each
// config under its name, each device as disk-NAME.raw, the state of the
// machine as vmstate.bin. The names are made by [SafeName], so that no file
// lies outside of dir; those that would be equal get "~2" and so on. Disks
// are sparse.
//
// A file that exists is an error. A device is written as tmp-disk-NAME.raw and
// gets its name once the whole archive is extracted: after an error the
// temporary files hold what was read. Under [Salvage] that of a device that
// only the salvage of a stream comes to know is disk-deviceN.raw.
func ExtractDir(ctx context.Context, src Extractor, dir *os.Root, o *DirOptions) (*Report, error) {
	if o == nil {
		o = &DirOptions{}
	}
	h := src.Header()
	configs, devices := fileNames(&h)
	for i, c := range h.Configs {
		if err := writeConfig(dir, configs[i], c.Data); err != nil {
			return nil, err
		}
	}
	out := outputs{dir: dir, opt: *o, names: make(map[uint8]string)}
	for i, d := range h.Devices {
		out.names[d.ID] = devices[i]
	}
	report, err := src.Extract(ctx, &ExtractOptions{Target: out.target, Workers: o.Workers, Progress: o.Progress})
	return report, errors.Join(err, out.close(err == nil))
}

func writeConfig(dir *os.Root, name string, data []byte) error {
	f, err := dir.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("vma: config: %w", err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("vma: config: %w", err)
	}
	return nil
}

// outputs are the files that devices are extracted to.
type outputs struct {
	dir   *os.Root
	opt   DirOptions
	names map[uint8]string // of devices
	files []output
}

type output struct {
	f    *os.File
	name string // once it is whole
}

const temporary = "tmp-"

// target makes the file of a device.
func (o *outputs) target(d DeviceInfo) (*Target, error) {
	if o.opt.Select != nil && !o.opt.Select(d) {
		return nil, nil
	}
	if o.opt.Target != nil {
		if t, err := o.opt.Target(d); t != nil || err != nil {
			return t, err
		}
	}
	name, ok := o.names[d.ID]
	if !ok {
		name = "disk-" + SafeName(d.Name) + ".raw"
	}
	f, err := o.dir.OpenFile(temporary+name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, err
	}
	o.files = append(o.files, output{f, name})
	return &Target{W: f}, nil
}

// close closes the files and, where they are whole, gives them their names.
func (o *outputs) close(whole bool) (err error) {
	for _, f := range o.files {
		err = errors.Join(err, f.f.Close())
	}
	for _, f := range o.files {
		if err != nil || !whole {
			break
		}
		// Rename would replace a file that has come up meanwhile.
		if _, serr := o.dir.Lstat(f.name); serr == nil {
			err = &os.PathError{Op: "rename", Path: f.name, Err: os.ErrExist}
		} else {
			err = o.dir.Rename(temporary+f.name, f.name)
		}
	}
	if err != nil {
		return fmt.Errorf("vma: %w", err)
	}
	return nil
}
