package vma

import "bytes"

// resyncState is what a walker that goes on after damage keeps.
type resyncState struct {
	checked int64 // offset of a header that was looked at ahead and is good
	repairs int   // headers that were searched for a flipped bit
	mended  struct {
		at     int64 // offset of a header that was repaired ahead
		header [extentHeader]byte
	}
}

const (
	searchChunk = 64 << 10
	// maxRepairs bounds the search for flipped bits, 4096 checksums each.
	maxRepairs = 64
	// maxSumDamage is how many bytes of a stored checksum may be wrong for
	// the damage to be in the checksum alone: the other 12 still prove the
	// header.
	maxSumDamage = 4
)

// mend deals with the extent at the offset of the source, of whose header,
// in w.extent, there are have bytes and off is wrong. It repairs the header,
// or else skips to the next extent.
func (w *walker) mend(code Code, off int64, have int) (repaired bool, err error) {
	at, e := w.src.offset(), w.extent.header
	hadMagic := have >= len(extentMagic) && e.hasMagic()
	if at == w.mended.at {
		copy(e, w.mended.header[:])
	}
	if at == w.mended.at || have == extentHeader && w.repair(e) {
		w.note(code, at+off, 0, "repaired")
		return true, nil
	}
	found, err := w.search()
	if err != nil {
		return false, err
	}
	skipped := w.src.offset() - at
	if found || hadMagic {
		w.note(code, at+off, 0, "")
	}
	if found {
		w.note(CodeSkipped, at, skipped, "")
	} else {
		w.note(CodeTrailing, at, skipped, "")
	}
	return false, nil
}

// repair mends a header whose damage is certain to be undone: where the
// checksum is right with the magic and the uuid that belong there or with one
// bit flipped, or where only bytes of the checksum itself are wrong.
func (w *walker) repair(e extentView) bool {
	if w.uuid == nil || checksum(e, offExtentMD5) == e.sum() && e.uuid() != *w.uuid {
		return false // nothing to go by, or sound but of another archive
	}
	saved := [extentHeader]byte(e)
	copy(e, extentMagic)
	copy(e[offExtentReserved:], []byte{0, 0})
	copy(e[offExtentUUID:], w.uuid[:])
	sum, want := checksum(e, offExtentMD5), e.sum()
	damage := 0
	for i := range sum {
		if sum[i] != want[i] {
			damage++
		}
	}
	mended := damage <= maxSumDamage
	if !mended && w.repairs < maxRepairs {
		w.repairs++
		mended = flipBack(e, want)
	}
	if !mended || e.blocks() > maxBlocks {
		copy(e, saved[:])
		return false
	}
	return true
}

// flipBack looks for the one bit of block_count and the slots that makes the
// checksum right, and flips it.
func flipBack(e extentView, want [16]byte) bool {
	for i := offBlockCount; i < extentHeader; i++ {
		if i == offExtentUUID {
			i = offSlots
		}
		for bit := range 8 {
			e[i] ^= 1 << bit
			if checksum(e, offExtentMD5) == want {
				return true
			}
			e[i] ^= 1 << bit
		}
	}
	return false
}

// search moves the source to the next good extent header after the byte it is
// at, or to the end of the archive.
func (w *walker) search() (found bool, err error) {
	w.src.skip(1)
	for {
		if w.ctx != nil && w.ctx.Err() != nil {
			return false, canceled(w.ctx)
		}
		b, err := w.src.peek(searchChunk)
		if err != nil {
			return false, ioError(w.src.offset(), err)
		}
		i, found := w.indexExtent(b)
		if found {
			w.src.skip(i)
			return true, nil
		}
		if len(b) < searchChunk {
			w.src.skip(len(b))
			return false, nil
		}
		w.src.skip(len(b) - extentHeader + 1)
	}
}

// indexExtent returns where in b the first good extent header begins.
func (w *walker) indexExtent(b []byte) (at int, found bool) {
	for at+extentHeader <= len(b) {
		i := bytes.Index(b[at:len(b)-extentHeader+len(extentMagic)], []byte(extentMagic))
		if i < 0 {
			break
		}
		at += i
		e := extentView(b[at : at+extentHeader])
		if w.uuid == nil || e.uuid() == *w.uuid {
			if _, _, ok := e.check(w.uuid); ok {
				return at, true
			}
		}
		at++
	}
	return 0, false
}

// whole reports whether the extent at the offset of the source is as long as
// *length says. It is where a good header, or the end, follows, or where only
// the next header is damaged. Otherwise bytes of it are gone, or others were
// put in, nobody knows where, and it is skipped. Where another extent begins
// where the masks put it, only *length was wrong.
func (w *walker) whole(length *int) (bool, error) {
	at := w.src.offset()
	next, err := w.src.ahead(*length, extentHeader)
	if err != nil {
		return false, ioError(at, err)
	}
	if len(next) == extentHeader {
		if _, _, ok := extentView(next).check(w.uuid); ok {
			w.checked = at + int64(*length)
			return true, nil
		}
		copy(w.mended.header[:], next)
		if w.repair(w.mended.header[:]) {
			w.mended.at = at + int64(*length)
			return true, nil
		}
	}
	if have, _, err := w.src.body(*length); err != nil || len(next) == 0 && have == *length {
		return err == nil, err
	}
	x, found, err := w.searchAhead(extentHeader, *length+maxExtent)
	if err != nil {
		return false, ioError(at, err)
	}
	if !found || x > *length && (x-*length-extentHeader)%BlockSize == 0 {
		return true, nil
	}
	if x == extentHeader+w.extent.header.maskedBlocks()*BlockSize {
		*length = x
		return true, nil
	}
	w.note(CodeLost, at, int64(x), "the extent has too few bytes or too many")
	w.src.skip(x)
	return false, nil
}

// searchAhead returns the offset, from that of the source, of the first good
// extent header that begins in [from, to].
func (w *walker) searchAhead(from, to int) (at int, found bool, err error) {
	for ; from <= to; from += searchChunk - extentHeader + 1 {
		b, err := w.src.ahead(from, min(searchChunk, to-from+extentHeader))
		if err != nil {
			return 0, false, err
		}
		if i, found := w.indexExtent(b); found {
			return from + i, true, nil
		}
	}
	return 0, false, nil
}
