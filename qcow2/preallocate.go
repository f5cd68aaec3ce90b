package qcow2

import (
	"context"
	"errors"

	"github.com/virtfmt/virtfmt/internal/align"
)

// preallocate gives the clusters from one offset of the disk up to another a
// place. They have none, and read as zeros before and after. The gate is held
// exclusively.
func (im *Image) preallocate(ctx context.Context, from, to int64, mode Preallocation) error {
	end := align.CeilDiv(to, im.clusterSize())
	for first := from >> im.clusterBits; first < end; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if im.encrypted && im.version < 3 {
			// Nothing but zeros that are encrypted reads as zeros there.
			if err := im.writeZeros(guestOff(first<<im.clusterBits), im.clusterSize()); err != nil {
				return err
			}
			if err := im.tidyTables(); err != nil {
				return err
			}
			first++
			continue
		}
		n := min(end-first, int64(1)<<im.l2Bits()-first&(1<<im.l2Bits()-1), max(1, int64(maxPlan)>>im.clusterBits))
		if err := im.ownTable(first >> im.l2Bits()); err != nil {
			return err
		}
		host, err := im.placeZeros(first, n, to, mode)
		if err != nil {
			return err
		}
		err = im.setEntries(first, n, freedData, func(guest int64, old entry) entry {
			return im.preallocated(host+im.clusterOff(clusterIdx(guest-first)), old)
		})
		if err != nil {
			return err
		}
		if err := im.tidyTables(); err != nil {
			return err
		}
		first += n
	}
	return nil
}

// preallocated returns the entry of a cluster that has its place at host, where
// there are zeros. Where these would be decrypted to something else the entry
// says that it reads as zeros.
func (im *Image) preallocated(host hostOff, old entry) entry {
	e := entry{makeL2Entry(host, true), old.subs}
	switch {
	case im.encrypted && im.extended:
		e.subs = allZeroes
	case im.encrypted:
		e.l2Entry |= flagZero
	}
	return e
}

// placeZeros returns a place for n guest clusters that is within the file and
// holds zeros. The disk ends at limit.
func (im *Image) placeZeros(first, n, limit int64, mode Preallocation) (hostOff, error) {
	host, virgin, err := im.place(first, n)
	if err != nil {
		return 0, err
	}
	size := n << im.clusterBits
	switch {
	case im.external && mode == PreallocateMetadata:
		return host, nil
	case im.external:
		im.dataUnsynced.Store(true)
		return host, reserve(im.dataW, int64(host), min(size, limit-int64(host)), mode)
	case !virgin:
		err = im.zeroStored(host, size)
	case mode == PreallocateMetadata: // the file must be as long
		err = im.writeStored(make([]byte, sectorSize), host+hostOff(size-sectorSize))
	default:
		im.unsynced.Store(true)
		if err = reserve(im.w, int64(host), size, mode); err == nil {
			raise(&im.length, int64(host)+size)
		}
	}
	if err != nil {
		return 0, errors.Join(err, im.giveBack(host, n))
	}
	return host, nil
}
