package imgopen

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/virtfmt/virtfmt/qcow2"
)

const errSnapshot = message("Failed to load snapshot: Can't find snapshot")

// Snapshot returns the disk of an internal snapshot of the image, found by an
// ID or a name, or by snapshot.id=ID,snapshot.name=NAME: what the tools take as
// option -l.
func (img *Image) Snapshot(param string) (*qcow2.SnapshotDisk, error) {
	if img.Qcow2 == nil {
		return nil, message(fmt.Sprintf("Failed to load snapshot: Block format '%s' used by device '' does not support temporarily loading internal snapshots", img.Format))
	}
	if strings.HasPrefix(param, "snapshot.") {
		all, err := img.Qcow2.Snapshots()
		if err != nil {
			return nil, err
		}
		for _, p := range SplitOptions(param) {
			switch p.Key {
			case "snapshot.id":
				all = slices.DeleteFunc(all, func(s qcow2.Snapshot) bool { return s.ID != p.Value })
			case "snapshot.name":
				all = slices.DeleteFunc(all, func(s qcow2.Snapshot) bool { return s.Name != p.Value })
			default:
				return nil, message("Invalid parameter '" + p.Key + "'")
			}
		}
		if len(all) == 0 {
			return nil, errSnapshot
		}
		param = all[0].ID
	}
	d, err := img.Qcow2.OpenSnapshot(param)
	if errors.Is(err, qcow2.ErrNoSnapshot) {
		return nil, errSnapshot
	}
	return d, err
}
