package vma

import (
	"bytes"
	"fmt"
	"strings"
)

// ConfigName is the name of the configuration file that every backup of
// Proxmox has.
const ConfigName = "qemu-server.conf"

// mapPrefix begins the lines that Proxmox adds to qemu-server.conf in a
// backup:
//
//	#qmdump#map:VIRTDEV:DEVICE:STORAGE:FORMAT:
const mapPrefix = "#qmdump#map:"

// A MapEntry ties a drive of the configuration to a device of the archive.
// Proxmox restores only devices that have one.
type MapEntry struct {
	VirtDev string // the drive in the configuration, such as "scsi0"
	Device  string // the device in the archive, such as "drive-scsi0"
	Storage string // where the disk was, such as "local-lvm"; may be empty
	Format  string // raw, qcow2 or vmdk; may be empty
}

// ParseMap returns the map of a qemu-server.conf. Lines that are not of the
// form are left out.
func ParseMap(conf []byte) []MapEntry {
	var entries []MapEntry
	for line := range mainSection(conf) {
		rest, ok := strings.CutPrefix(line, mapPrefix)
		f := strings.Split(strings.TrimRight(rest, " \t\r\n"), ":")
		if !ok || len(f) != 5 || f[4] != "" {
			continue
		}
		if e := (MapEntry{f[0], f[1], f[2], f[3]}); e.valid() == nil {
			entries = append(entries, e)
		}
	}
	return entries
}

// SetMap returns conf with entries as its map, in the place of the one that it
// has: at the end of the first section, before those of snapshots. A field
// with a colon, white space or a control character in it is an error, and so
// is an empty VirtDev or Device.
func SetMap(conf []byte, entries []MapEntry) ([]byte, error) {
	var out bytes.Buffer
	n := 0
	for line := range mainSection(conf) {
		n += len(line)
		if !strings.HasPrefix(line, mapPrefix) {
			out.WriteString(line)
		}
	}
	if b := out.Bytes(); len(b) > 0 && b[len(b)-1] != '\n' {
		out.WriteByte('\n')
	}
	for _, e := range entries {
		if err := e.valid(); err != nil {
			return nil, err
		}
		fmt.Fprintf(&out, "%s%s:%s:%s:%s:\n", mapPrefix, e.VirtDev, e.Device, e.Storage, e.Format)
	}
	out.Write(conf[n:])
	return out.Bytes(), nil
}

// MakeMap returns the map for devices that are named as Proxmox names them:
// "drive-" and the drive. The storage is that of the drive in conf, the format
// what the name of the volume ends in, otherwise raw. Devices without a drive
// in conf are left out.
func MakeMap(conf []byte, devices []DeviceInfo) []MapEntry {
	volumes := make(map[string]string)
	for line := range mainSection(conf) {
		if drive, rest, ok := strings.Cut(line, ":"); ok && !strings.HasPrefix(line, "#") {
			volume, _, _ := strings.Cut(strings.TrimSpace(rest), ",")
			volumes[drive] = volume
		}
	}
	var entries []MapEntry
	for _, d := range devices {
		drive, ok := strings.CutPrefix(d.Name, "drive-")
		volume, ok2 := volumes[drive]
		if !ok || !ok2 {
			continue
		}
		e := MapEntry{VirtDev: drive, Device: d.Name, Format: "raw"}
		if storage, _, ok := strings.Cut(volume, ":"); ok {
			e.Storage = storage
		}
		for _, format := range []string{"qcow2", "vmdk"} {
			if strings.HasSuffix(volume, "."+format) {
				e.Format = format
			}
		}
		if e.valid() == nil {
			entries = append(entries, e)
		}
	}
	return entries
}

// valid says what keeps e from being a line.
func (e MapEntry) valid() error {
	for _, s := range []string{e.VirtDev, e.Device, e.Storage, e.Format} {
		if strings.ContainsFunc(s, func(r rune) bool { return r == ':' || r <= ' ' || r == 0x7f }) {
			return fmt.Errorf("vma: map: %q has a colon, a space or a control character", s)
		}
	}
	if e.VirtDev == "" || e.Device == "" {
		return fmt.Errorf("vma: map: %+v lacks a drive or a device", e)
	}
	return nil
}

// mainSection yields the lines of conf, with their ends, up to the first
// section of a snapshot.
func mainSection(conf []byte) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for line := range strings.Lines(string(conf)) {
			if strings.HasPrefix(line, "[") || !yield(line) {
				return
			}
		}
	}
}
