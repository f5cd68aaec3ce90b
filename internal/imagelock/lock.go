// Package imagelock takes the locks by which QEMU and its tools keep away from
// each other.
//
// QEMU tells other programs how it uses an image file by locks on single bytes
// of it, which hold nothing of their own: a byte for each permission that it
// uses, and one for each that it does not let others use. All are read locks,
// so that any number of programs can hold them; a conflict is found by asking
// whether a write lock would be granted. They are open file description
// locks: they belong to the file that was opened, not to the process, and end
// when that is closed.
package imagelock

import "errors"

// ErrLocked means that another program, or this one through another opening,
// uses the image in a way that does not go with the one that was asked for.
var ErrLocked = errors.New("image is in use")
