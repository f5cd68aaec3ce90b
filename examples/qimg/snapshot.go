package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/virtfmt/virtfmt/examples/internal/imginfo"
	"github.com/virtfmt/virtfmt/qcow2"
)

// maxSnapshotName is where qemu-img cuts the name of a snapshot, in bytes.
const maxSnapshotName = 255

// snapshot runs "qimg snapshot".
func (c *command) snapshot(args []string) error {
	var s settings
	action, name := "", ""
	opts, operands, err := parse(args, "la:c:d:qU", "object: image-opts force-share=U")
	if err != nil {
		return err
	}
	given := false
	for _, o := range opts {
		if ok, err := s.set(o); err != nil {
			return err
		} else if ok {
			continue
		}
		if given {
			return usageError("Cannot mix '-l', '-a', '-c', '-d'")
		}
		action, name, given = o.name, o.value, true
	}
	file, err := oneFile(operands)
	if err != nil {
		return err
	}
	if action != "l" && action != "" && s.noLock {
		return messagef("Could not open '%s': force-share=on can only be used with read-only images", file)
	}
	return c.onSnapshots(file, &s, action, name)
}

func (c *command) onSnapshots(file string, s *settings, action, name string) (err error) {
	o := c.writing(s)
	o.Write = action != "l" && action != ""
	img, err := c.open(file, o)
	if err != nil {
		return err
	}
	defer closing(img, &err)
	if img.Qcow2 == nil {
		switch action {
		case "c":
			return messagef("Could not create snapshot '%s': -95 (Operation not supported)", name)
		case "a":
			return messagef("Could not apply snapshot '%s': Block driver does not support snapshots", name)
		case "d":
			return messagef("Could not delete snapshot '%s': snapshot not found", name)
		}
		return nil
	}
	switch action {
	case "": // without an action the image is only opened, as by qemu-img
		return nil
	case "c":
		name = name[:min(len(name), maxSnapshotName)]
		_, err = img.Qcow2.CreateSnapshot(c.ctx, name, nil)
		return snapshotError("create", name, err)
	case "a":
		return snapshotError("apply", name, img.Qcow2.ApplySnapshot(c.ctx, name))
	case "d":
		return snapshotError("delete", name, c.deleteSnapshot(img.Qcow2, name))
	}
	all, err := img.Qcow2.Snapshots()
	if err == nil && len(all) > 0 {
		printSnapshots(c.stdout, all)
	}
	return err
}

// deleteSnapshot deletes the first snapshot of that name. An ID does not count,
// unlike where a snapshot is applied.
func (c *command) deleteSnapshot(im *qcow2.Image, name string) error {
	all, err := im.Snapshots()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(s qcow2.Snapshot) bool { return s.Name == name })
	if i < 0 {
		return message("snapshot not found")
	}
	return im.DeleteSnapshot(c.ctx, all[i].ID)
}

func snapshotError(verb, name string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, qcow2.ErrNoSnapshot):
		err = message("Failed to load snapshot: No such file or directory")
	}
	return messagef("Could not %s snapshot '%s': %v", verb, name, err)
}

// printSnapshots prints a list of snapshots.
func printSnapshots(w io.Writer, all []qcow2.Snapshot) {
	line := func(cells ...any) { fmt.Fprintf(w, "%-9s %-16s %8s%20s%13s%11s\n", cells...) }
	fmt.Fprintln(w, "Snapshot list:")
	line("ID", "TAG", "VM SIZE", "DATE", "VM CLOCK", "ICOUNT")
	for _, s := range all {
		icount := ""
		if s.ICount != -1 {
			icount = fmt.Sprint(s.ICount)
		}
		ms := s.VMClock.Milliseconds()
		clock := fmt.Sprintf("%02d:%02d:%02d.%03d", ms/3600000, ms/60000%60, ms/1000%60, ms%1000)
		line(s.ID, s.Name, human(s.VMStateSize), s.Time.Local().Format(time.DateTime), clock, icount)
	}
}

// snapshotObject returns a snapshot for JSON.
func snapshotObject(s qcow2.Snapshot) imginfo.Object {
	o := imginfo.Object{
		{"vm-clock-nsec", s.VMClock.Nanoseconds() % 1e9}, {"name", s.Name}, {"date-sec", s.Time.Unix()},
		{"date-nsec", s.Time.Nanosecond()}, {"vm-clock-sec", int64(s.VMClock / time.Second)}, {"id", s.ID}, {"vm-state-size", s.VMStateSize},
	}
	if s.ICount != -1 {
		o.Add("icount", s.ICount)
	}
	return o
}
