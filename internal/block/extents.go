package block

import "iter"

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
