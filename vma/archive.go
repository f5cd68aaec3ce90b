package vma

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/bits"
	"os"
	"slices"

	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/internal/safeio"
)

// maxArchive is how large an archive may be: an index entry has 48 bits for an
// offset.
const maxArchive = 1 << 48

// An Archive is an open archive that can be read at random. Opening it reads
// all extent headers once; the index takes less than 16 bytes of memory for
// each cluster of 64 KiB. The methods of an Archive and its devices are safe
// for concurrent use.
type Archive struct {
	r       io.ReaderAt
	size    int64
	opt     Options
	header  Header
	report  *Report
	devices []*Device
	closer  io.Closer // nil unless OpenFile opened it
}

// Open opens the archive r, which stays open until the caller closes it. It
// fails with a [*FormatError] at the first thing that the profile counts as an
// error, missing clusters among them; with [Salvage] it takes what there is,
// and [Archive.Report] says what is not.
func Open(r io.ReaderAt, o *Options) (*Archive, error) {
	return OpenContext(context.Background(), r, o)
}

// OpenContext is [Open] that ends early when ctx does.
func OpenContext(ctx context.Context, r io.ReaderAt, o *Options) (*Archive, error) {
	opt := o.withDefaults()
	size, err := opt.length(r)
	if err != nil {
		return nil, err
	}
	if size > maxArchive {
		return nil, fmt.Errorf("vma: archive of %d bytes, at most %d: %w", size, int64(maxArchive), errors.ErrUnsupported)
	}
	w, err := newWalker(ctx, &fileSource{r: r, size: size}, size, opt, opt.Profile == Salvage)
	if err != nil {
		return nil, err
	}
	a := &Archive{r: r, size: size, opt: opt, header: w.header}
	if err := a.index(w); err != nil {
		return nil, err
	}
	return a, nil
}

// OpenFile opens the archive of that name, which [Archive.Close] closes.
func OpenFile(name string, o *Options) (*Archive, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("vma: %w", err)
	}
	a, err := Open(f, o)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	a.closer = f
	return a, nil
}

// Close closes the file that [OpenFile] opened, and nothing else.
func (a *Archive) Close() error {
	if a.closer == nil {
		return nil
	}
	return a.closer.Close()
}

// Header returns a copy of the header.
func (a *Archive) Header() Header { return a.header.clone() }

// Report returns what was found when the archive was opened.
func (a *Archive) Report() *Report { return a.report.clone() }

// Devices returns the devices in order of ID. Under [Salvage] they include
// those that the header does not name, but clusters do: "deviceN", as large as
// their last cluster makes them.
func (a *Archive) Devices() []*Device { return slices.Clone(a.devices) }

// Device returns the device of that name, nil where there is none.
func (a *Archive) Device(name string) *Device {
	for _, d := range a.devices {
		if d.info.Name == name {
			return d
		}
	}
	return nil
}

// VMState returns the state of the machine, nil where the archive has none.
// It is a stream of bytes rather than a disk; io.NewSectionReader(d, 0,
// d.Size()) reads it from front to back.
func (a *Archive) VMState() *Device {
	i := slices.IndexFunc(a.devices, func(d *Device) bool { return d.vmstate })
	if i < 0 {
		return nil
	}
	return a.devices[i]
}

// index walks the extents and notes where each cluster is.
func (a *Archive) index(w *walker) error {
	w.list = true
	var tables [256]*table
	// An index is dense where an archive as long as this one can list all
	// clusters of the devices; one that cannot is damaged.
	room := (a.size - a.header.Size) / extentHeader * slotsPerExtent
	for _, d := range a.header.Devices {
		dense := d.Clusters() <= room
		if dense {
			room -= d.Clusters()
		}
		tables[d.ID] = newTable(d.Clusters(), dense)
	}
	for {
		e, err := w.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		for _, c := range e.clusters {
			t := tables[c.dev()]
			if t == nil {
				t = newTable(0, false)
				tables[c.dev()] = t
			}
			*t.at(c.cluster()) = uint64(makeEntry(e.offset+int64(c.data), c.mask()))
		}
	}
	a.report = w.result()
	vm, _ := a.header.VMState()
	for _, d := range a.report.Devices {
		tables[d.ID].freeze()
		a.devices = append(a.devices, &Device{archive: a, info: d.DeviceInfo, index: tables[d.ID], vmstate: d.ID == vm.ID})
	}
	return nil
}

// An entry says where the stored blocks of a cluster are: their offset in the
// archive and the mask. It is 0 for a cluster that is missing.
type entry uint64

func makeEntry(off int64, mask uint16) entry { return entry(off)<<16 | entry(mask) }
func (e entry) offset() int64                { return int64(e >> 16) }
func (e entry) mask() uint16                 { return uint16(e) }

// A Device is a device in an [Archive]: a [Disk] that can be read, or the
// state of the machine.
type Device struct {
	archive *Archive
	info    DeviceInfo
	index   *table // of entries by cluster
	vmstate bool
}

// Info returns the ID, name and size of the device.
func (d *Device) Info() DeviceInfo { return d.info }

// Name returns the name of the device as stored, such as "drive-scsi0".
func (d *Device) Name() string { return d.info.Name }

// Size returns the length of the device in bytes.
func (d *Device) Size() int64 { return d.info.Size }

// IsVMState reports whether the device is the state of the machine.
func (d *Device) IsVMState() bool { return d.vmstate }

// ReadAt reads from the device at off, which need not be aligned. At the end
// of the device it returns [io.EOF].
func (d *Device) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("vma: device %d: negative offset %d", d.info.ID, off)
	}
	if off >= d.info.Size {
		return 0, io.EOF
	}
	if left := d.info.Size - off; int64(len(p)) > left {
		p, err = p[:left], io.EOF
	}
	for n < len(p) {
		e := d.extent(off+int64(n), int64(len(p)-n))
		b := p[n : n+int(e.Length)]
		if e.Kind != block.Data {
			clear(b)
		} else if err := safeio.ReadFull(d.archive.r, b, e.HostOffset); err != nil {
			return n, ioError(e.HostOffset, err)
		}
		n += len(b)
	}
	return n, err
}

// Extents yields what stands behind the n bytes at off, in order, without
// gaps, cut to the range asked for and to the end of the device: [Data] with
// its place in the archive, [Zero], and [Unallocated] for what a damaged
// archive lacks. The error is nil but for a negative range.
func (d *Device) Extents(off, n int64) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		if off < 0 || n < 0 {
			yield(Extent{}, fmt.Errorf("vma: device %d: range of %d bytes at %d", d.info.ID, n, off))
			return
		}
		end := d.info.Size
		if n < end-off {
			end = off + n
		}
		for off < end {
			e := d.extent(off, end-off)
			if !yield(e, nil) {
				return
			}
			off += e.Length
		}
	}
}

// CopyTo copies what the device holds to dst, in parallel and without its
// zeros where dst is known to read as zeros, as [CopyOptions] say. The target
// may be a file, which becomes a raw image, or an image of another package. A
// failure is a [*CopyError] that wraps what failed, or the cause of ctx. To
// copy several devices, [Archive.Extract] reads the archive but once.
func (d *Device) CopyTo(ctx context.Context, dst io.WriterAt, o *CopyOptions) (CopyStats, error) {
	return block.Copy(ctx, dst, d, o)
}

// ClusterSize returns 65536, the unit in which the device is stored.
func (d *Device) ClusterSize() int64 { return ClusterSize }

// HostFile returns the archive, which the HostOffset of extents refers to.
func (d *Device) HostFile(depth int) io.ReaderAt {
	if depth != 0 {
		return nil
	}
	return d.archive.r
}

var (
	_ block.HostFiler = (*Device)(nil)
	_ block.Clusterer = (*Device)(nil)
)

// extent returns the longest extent that begins at off, cut to n bytes.
//
// Preconditions: 0 <= off and 0 < n <= Size - off.
func (d *Device) extent(off, n int64) Extent {
	e := d.piece(off)
	for e.Length < n {
		next := d.piece(e.End())
		if !next.Follows(e) {
			break
		}
		e.Length += next.Length
	}
	e.Length = min(e.Length, n)
	return e
}

// piece returns the extent that begins at off, as far as the cluster goes.
func (d *Device) piece(off int64) Extent {
	x := Extent{Start: off, Kind: block.Unallocated, HostOffset: block.NoOffset}
	inCluster := off % ClusterSize
	num := uint32(off / ClusterSize)
	e := entry(d.index.get(num))
	if e == 0 {
		x.Length = d.index.after(num)*ClusterSize - off
	} else {
		first := int(inCluster / BlockSize)
		inBlock := inCluster % BlockSize
		rest := e.mask() >> first
		run := bits.TrailingZeros16(rest)
		x.Kind = block.Zero
		if rest&1 != 0 {
			x.Kind = block.Data
			before := bits.OnesCount16(e.mask() & (1<<first - 1))
			x.HostOffset = e.offset() + int64(before)*BlockSize + inBlock
			run = bits.TrailingZeros16(^rest)
		}
		run = min(run, BlocksPerCluster-first)
		x.Length = int64(run)*BlockSize - inBlock
	}
	x.Length = min(x.Length, d.info.Size-off)
	return x
}
