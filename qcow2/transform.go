package qcow2

import "github.com/virtfmt/virtfmt/internal/inflight"

// A transform changes guest data on its way to and from the file: encryption.
// It works on whole sectors of 512 bytes; how one is transformed may depend on
// where it lies in the file and on the disk. Its methods may be called
// concurrently. Compressed clusters are not transformed.
type transform interface {
	decrypt(p []byte, host hostOff, guest guestOff)
	encrypt(dst, src []byte, host hostOff, guest guestOff)
}

// readData fills p with guest data that is stored as it is, at host.
func (im *Image) readData(p []byte, host hostOff, guest guestOff) error {
	if im.transform == nil {
		return im.readStored(p, host)
	}
	in := int64(guest) % sectorSize
	n := (in + int64(len(p)) + sectorSize - 1) &^ (sectorSize - 1)
	if n == int64(len(p)) {
		if err := im.readStored(p, host); err != nil {
			return err
		}
		im.transform.decrypt(p, host, guest)
		return nil
	}
	return im.withBuffer(n, func(b []byte) error {
		host, guest := host-hostOff(in), guest-guestOff(in)
		if err := im.readStored(b, host); err != nil {
			return err
		}
		im.transform.decrypt(b, host, guest)
		copy(p, b[in:])
		return nil
	})
}

// readStored fills p from where guest clusters lie.
func (im *Image) readStored(p []byte, host hostOff) error {
	if im.external {
		return readTail(im.data, p, host, &im.dataLength)
	}
	return readTail(im.data, p, host, &im.length)
}

// transformChunk is how much is transformed at a time.
const transformChunk = 256 << 10

// writeData writes guest data to host. It is whole sectors if there is a
// transform.
func (im *Image) writeData(p []byte, host hostOff, guest guestOff) error {
	if im.transform == nil {
		return im.writeStored(p, host)
	}
	return im.withBuffer(min(int64(len(p)), transformChunk), func(b []byte) error {
		for len(p) > 0 {
			n := min(len(p), len(b))
			im.transform.encrypt(b[:n], p[:n], host, guest)
			if err := im.writeStored(b[:n], host); err != nil {
				return err
			}
			p, host, guest = p[n:], host+hostOff(n), guest+guestOff(n)
		}
		return nil
	})
}

// wholeSectors calls write with p at off or, if there is a transform, with
// the sectors that this touches, which nobody else who does so writes
// meanwhile.
func (im *Image) wholeSectors(p []byte, off guestOff, write func(p []byte, off guestOff) (int, error)) (int, error) {
	const mask = sectorSize - 1
	if im.transform == nil || (int64(off)|int64(len(p)))&mask == 0 || len(p) == 0 {
		return write(p, off)
	}
	start := off &^ mask
	n := (int64(off-start) + int64(len(p)) + mask) &^ mask
	lock := inflight.Range{Start: int64(start), End: int64(start) + n}
	im.sectors.Lock(&lock)
	defer im.sectors.Unlock(&lock)
	b := make([]byte, n)
	for _, edge := range []int64{0, n - sectorSize} {
		if _, err := im.readVia(im.active, b[edge:edge+sectorSize], start+guestOff(edge)); err != nil {
			return 0, err
		}
	}
	copy(b[off-start:], p)
	done, err := write(b, start)
	return max(0, min(len(p), done-int(off-start))), err
}
