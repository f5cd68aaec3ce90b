package block

import (
	"errors"
	"fmt"
	"iter"
)

// Merge yields the extents of seq with neighbours that follow each other told
// as one. Extents before an error are yielded first.
func Merge(seq iter.Seq2[Extent, error]) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		var have Extent // Length 0: none
		for e, err := range seq {
			switch {
			case err != nil:
				if have.Length == 0 || yield(have, nil) {
					yield(Extent{}, err)
				}
				return
			case have.Length > 0 && e.Follows(have):
				have.Length += e.Length
				continue
			case have.Length > 0 && !yield(have, nil):
				return
			}
			have = e
		}
		if have.Length > 0 {
			yield(have, nil)
		}
	}
}

// BackingExtents yields what a disk's backing file tells of the n bytes at
// off, one layer deeper. What lies past the end of the backing file, or all of
// it where backing is nil, is unallocated in the disk itself. It reports
// whether to go on: false after an error or where yield said so.
func BackingExtents(backing Disk, off, n int64, yield func(Extent, error) bool) bool {
	end := off + n
	if backing != nil && off < backing.Size() {
		for e, err := range backing.Extents(off, min(n, backing.Size()-off)) {
			if err != nil {
				yield(Extent{}, err)
				return false
			}
			e.Depth++
			if !yield(e, nil) {
				return false
			}
			off = e.End()
		}
	}
	if off < end {
		return yield(Extent{Start: off, Length: end - off, Kind: Unallocated, HostOffset: NoOffset}, nil)
	}
	return true
}

// errExtents means that a disk does not keep to what [Disk] says of Extents.
var errExtents = errors.New("the extents of the disk have a gap")

// WholeDisk yields the extents of d from its start to its end, and fails
// where they do not follow each other, so that whoever walks over a disk
// leaves nothing of it out.
func WholeDisk(d Disk) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		size, at := d.Size(), int64(0)
		for e, err := range d.Extents(0, size) {
			if err == nil && (e.Start != at || e.Length <= 0 || e.Length > size-at) {
				err = fmt.Errorf("%w: %d bytes at %#x, expected at %#x", errExtents, e.Length, e.Start, at)
			}
			if err != nil {
				yield(Extent{Start: at}, err)
				return
			}
			at = e.End()
			if !yield(e, nil) {
				return
			}
		}
		if at != size {
			yield(Extent{Start: at}, fmt.Errorf("%w: they end at %#x of %#x", errExtents, at, size))
		}
	}
}
