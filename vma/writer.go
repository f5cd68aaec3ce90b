package vma

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/virtfmt/virtfmt/internal/block"
)

// WriterOptions says how an archive is written. nil and the zero value are the
// defaults.
type WriterOptions struct {
	// FillMissing makes [Writer.Close] write the clusters that were not
	// written as zeros, rather than fail.
	FillMissing bool
	// Verbatim keeps a UUID and a CTime that are zero.
	Verbatim bool
}

// A Writer writes an archive from front to back. The clusters of a device may
// come in any order, those of vmstate in ascending order; clusters of vmstate
// that are skipped are written as zeros before the next one.
//
// The archive becomes whole in Close alone: until then the last bytes are held
// back, so that what was written ends inside a structure and no reader takes
// it for an archive. After any error, of the writer below or of an argument,
// the Writer writes nothing more and returns the same error from then on.
//
// The same header and calls make the same bytes. The methods of a Writer may
// be called concurrently; the order of the archive is then that of the calls.
type Writer struct {
	mu      sync.Mutex // guards all below
	w       io.Writer
	opt     WriterOptions
	header  Header
	devs    [256]*writerDevice
	pending extentBuffer // the extent being filled
	held    [holdBack]byte
	nheld   int
	written int64
	err     error // sticky
	closed  bool
}

// A writerDevice is what was written of a device.
type writerDevice struct {
	DeviceInfo
	vmstate bool
	seen    bitset
	count   int64 // clusters written
	next    int64 // one above the last cluster written
}

// zeroCluster is what is stored of vmstate where it is zero.
var zeroCluster [ClusterSize]byte

// holdBack is how many bytes are kept until more follow: less than the
// shortest structure, so that what is out always ends inside one.
const holdBack = 256

// An extentBuffer holds an extent, after room for the bytes held back.
type extentBuffer struct {
	b     []byte // holdBack and extentHeader bytes, then blocks
	slots int    // used
	// Invariant: len(b) == holdBack + extentHeader + blocks*BlockSize
}

// newExtentBuffer returns an empty buffer with room for that many clusters.
func newExtentBuffer(clusters int64) extentBuffer {
	const fixed = holdBack + extentHeader
	return extentBuffer{b: make([]byte, fixed, fixed+clusters*ClusterSize)}
}

func (e *extentBuffer) header() extentView {
	return extentView(e.b[holdBack : holdBack+extentHeader])
}

func (e *extentBuffer) blocks() int { return (len(e.b) - holdBack - extentHeader) / BlockSize }

func (e *extentBuffer) reset() {
	e.b, e.slots = e.b[:holdBack+extentHeader], 0
	clear(e.b)
}

// piece returns the n bytes that follow the last block, for addPiece.
func (e *extentBuffer) piece(n int) []byte {
	return e.b[len(e.b) : len(e.b)+n : cap(e.b)]
}

// addPiece puts the clusters of p from num on into the next slots: their
// blocks that are not zero, all of them of vmstate. The blocks move together
// in place where p is a piece of e. maybe says whether p may be other than
// zero.
func (e *extentBuffer) addPiece(d *writerDevice, num int64, p []byte, maybe bool) {
	for ; len(p) > 0; num++ {
		data := p[:min(ClusterSize, len(p))]
		p = p[len(data):]
		mask := uint16(0)
		if maybe || d.vmstate {
			mask = d.mask(data)
		}
		for first, n := range maskRuns(mask) {
			b := data[first*BlockSize : min((first+n)*BlockSize, len(data))]
			e.b = append(e.b, b...)
			if pad := n*BlockSize - len(b); pad > 0 {
				e.b = append(e.b, zeroCluster[:pad]...)
			}
		}
		e.addSlot(makeSlot(mask, d.ID, uint32(num)))
	}
}

// mask returns which blocks of a cluster are stored.
func (d *writerDevice) mask(data []byte) (mask uint16) {
	for i := 0; len(data) > 0; i++ {
		n := min(BlockSize, len(data))
		if d.vmstate || !block.IsZero(data[:n]) {
			mask |= 1 << i
		}
		data = data[n:]
	}
	return mask
}

// addSlot fills the next slot.
func (e *extentBuffer) addSlot(s slot) {
	e.header().setSlot(e.slots, s)
	e.slots++
}

// NewWriter writes the header of an archive to w. Devices without an ID get
// the lowest that are free, from 1 on, in the order given. A zero UUID becomes
// a random one and a zero CTime the present, unless o says Verbatim: set both
// for an archive that is the same every time.
//
// Names must be safe as file names and differ, sizes of devices be multiples
// of 512; Proxmox reads nothing else. The Size, BlobOffset and BlobSize of h
// are not used.
func NewWriter(w io.Writer, h *Header, o *WriterOptions) (*Writer, error) {
	if h == nil {
		return nil, errors.New("vma: no header")
	}
	wr := &Writer{w: w, header: h.clone(), pending: newExtentBuffer(0)}
	if o != nil {
		wr.opt = *o
	}
	if err := wr.complete(); err != nil {
		return nil, err
	}
	b, err := wr.header.AppendBinary(nil)
	if err != nil {
		return nil, err
	}
	wr.header.Size, wr.header.BlobOffset = int64(len(b)), fixedHeader
	wr.header.BlobSize = int64(binary.BigEndian.Uint32(b[offBlobSize:]))
	vm, _ := wr.header.VMState()
	for _, d := range wr.header.Devices {
		wr.devs[d.ID] = &writerDevice{DeviceInfo: d, vmstate: d.ID == vm.ID, seen: newBitset(d.Clusters(), d.Clusters() <= maxDenseBits)}
	}
	if err := wr.emit(b, false); err != nil {
		return nil, err
	}
	return wr, nil
}

// complete gives the header what the caller left open.
func (w *Writer) complete() error {
	h := &w.header
	if h.UUID == [16]byte{} && !w.opt.Verbatim {
		rand.Read(h.UUID[:])
		h.UUID[6], h.UUID[8] = h.UUID[6]&0x0f|0x40, h.UUID[8]&0x3f|0x80 // RFC 9562, version 4
	}
	if h.CTime == 0 && !w.opt.Verbatim {
		h.CTime = time.Now().Unix()
	}
	var taken [256]bool
	for _, d := range h.Devices {
		taken[d.ID] = true
	}
	next := 1
	for i := range h.Devices {
		if h.Devices[i].ID != 0 {
			continue
		}
		for next <= MaxDevices && taken[next] {
			next++
		}
		if next > MaxDevices {
			return fmt.Errorf("vma: %d devices, at most %d", len(h.Devices), MaxDevices)
		}
		h.Devices[i].ID = uint8(next)
		taken[next] = true
	}
	slices.SortFunc(h.Devices, func(a, b DeviceInfo) int { return cmp.Compare(a.ID, b.ID) })
	return nil
}

// Header returns a copy of the header as it was written, with the IDs of all
// devices.
func (w *Writer) Header() Header { return w.header.clone() }

// WriteCluster writes a cluster of a device: 64 KiB, or for the last one what
// is left of the device. Blocks of 4096 bytes that are all zero are not
// stored, except of vmstate, whose zeros Proxmox's tool would drop. Each
// cluster can be written once.
func (w *Writer) WriteCluster(dev uint8, num uint32, data []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	d, err := w.device(dev)
	if err != nil {
		return err
	}
	if want := d.clusterLen(num); want <= 0 || int64(len(data)) != want {
		return w.fail(fmt.Errorf("vma: device %d cluster %d: %d bytes, want %d", dev, num, len(data), want))
	}
	return w.put(d, num, data)
}

// WriteZeroes writes the clusters of n bytes at off as zeros. The range must
// be of whole clusters, but may end where the device does.
func (w *Writer) WriteZeroes(dev uint8, off, n int64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	d, err := w.device(dev)
	if err != nil {
		return err
	}
	end := off + n
	if off < 0 || n < 0 || end < off || end > d.Size || off%ClusterSize != 0 || end%ClusterSize != 0 && end != d.Size {
		return w.fail(fmt.Errorf("vma: device %d: %d bytes at %d are not whole clusters of it", dev, n, off))
	}
	for ; off < end; off += ClusterSize {
		if err := w.put(d, uint32(off/ClusterSize), nil); err != nil {
			return err
		}
	}
	return nil
}

// clusterLen returns the length of a cluster, 0 or less past the end.
func (d *writerDevice) clusterLen(num uint32) int64 {
	return min(ClusterSize, d.Size-int64(num)*ClusterSize)
}

// device returns the device of that ID, or the error that ends all.
func (w *Writer) device(id uint8) (*writerDevice, error) {
	if w.err == nil && w.closed {
		return nil, errClosed
	}
	if w.err == nil && w.devs[id] == nil {
		w.err = fmt.Errorf("vma: no device %d", id)
	}
	return w.devs[id], w.err
}

var errClosed = fmt.Errorf("vma: the archive: %w", fs.ErrClosed)

// fail makes err the error of the Writer.
func (w *Writer) fail(err error) error {
	w.err = cmp.Or(w.err, err)
	return w.err
}

// put writes a cluster, nil data for zeros.
//
// Preconditions: the length is right.
func (w *Writer) put(d *writerDevice, num uint32, data []byte) error {
	if data == nil && d.vmstate {
		data = zeroCluster[:d.clusterLen(num)]
	}
	if err := w.prepare(d, num); err != nil {
		return err
	}
	if data == nil {
		w.pending.addSlot(makeSlot(0, d.ID, num))
	} else {
		w.pending.addPiece(d, int64(num), data, true)
	}
	return nil
}

// storeBlocks writes a cluster whose stored blocks are known.
func (w *Writer) storeBlocks(d *writerDevice, s slot, blocks []byte) error {
	if err := w.prepare(d, s.cluster()); err != nil {
		return err
	}
	w.pending.b = append(w.pending.b, blocks...)
	w.pending.addSlot(s)
	return nil
}

// prepare makes room for a cluster in the pending extent and takes note of it.
// The clusters of vmstate that were skipped are written first.
func (w *Writer) prepare(d *writerDevice, num uint32) error {
	if d.vmstate && int64(num) < d.next {
		return w.fail(fmt.Errorf("vma: vmstate cluster %d after %d: they must ascend", num, d.next-1))
	}
	if !d.seen.add(num) {
		return w.fail(fmt.Errorf("vma: device %d cluster %d is written twice", d.ID, num))
	}
	for d.vmstate && d.next != int64(num) {
		if err := w.put(d, uint32(d.next), nil); err != nil {
			return err
		}
	}
	if w.pending.slots == writerSlots {
		if err := w.flush(&w.pending); err != nil {
			return err
		}
	}
	d.count++
	d.next = int64(num) + 1
	return nil
}

// flush writes out an extent, but for the bytes held back, and empties it.
func (w *Writer) flush(e *extentBuffer) error {
	e.header().seal(w.header.UUID, e.blocks())
	err := w.emit(e.b, true)
	e.reset()
	return err
}

// emit writes b but for its end, after what was held back. Where room is set,
// b begins with holdBack bytes for that.
func (w *Writer) emit(b []byte, room bool) error {
	if w.err != nil {
		return w.err
	}
	if room {
		b = b[holdBack-w.nheld:]
		copy(b, w.held[:w.nheld])
	}
	out := b[:len(b)-holdBack]
	w.nheld = copy(w.held[:], b[len(out):])
	return w.output(out)
}

func (w *Writer) output(b []byte) error {
	n, err := w.w.Write(b)
	w.written += int64(n)
	if err == nil && n != len(b) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return w.fail(fmt.Errorf("vma: write at %#x: %w", w.written, err))
	}
	return nil
}

// Close writes what is left and makes the archive whole. It does not close
// the writer below. Where clusters are missing, it writes nothing and returns
// an [*IncompleteError], which is an [ErrIncomplete]; see
// [WriterOptions.FillMissing].
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil || w.closed {
		return w.err
	}
	if err := w.finish(); err != nil {
		return err
	}
	// An archive without any cluster has one empty extent.
	if w.pending.slots > 0 || w.written+int64(w.nheld) == w.header.Size {
		if err := w.flush(&w.pending); err != nil {
			return err
		}
	}
	if err := w.output(w.held[:w.nheld]); err != nil {
		return err
	}
	w.closed = true
	return nil
}

// maxMissing is how many ranges an IncompleteError names.
const maxMissing = 1000

// finish fills what was not written, or says what it is.
func (w *Writer) finish() error {
	missing := &IncompleteError{}
	for _, info := range w.header.Devices {
		d := w.devs[info.ID]
		if d.count == d.Clusters() {
			continue
		}
		for first, n := range d.seen.gaps(d.Clusters()) {
			if !w.opt.FillMissing {
				missing.add(d, first, n)
				continue
			}
			for num := first; num < first+n; num++ {
				if err := w.put(d, uint32(num), nil); err != nil {
					return err
				}
			}
		}
	}
	if missing.Clusters > 0 {
		return w.fail(missing)
	}
	return nil
}

// An IncompleteError is what [Writer.Close] returns where clusters were not
// written. It satisfies [ErrIncomplete].
type IncompleteError struct {
	Clusters int64          // how many clusters are missing
	Ranges   []MissingRange // where, the first 1000 ranges
}

// A MissingRange is a range of a device that was not written.
type MissingRange struct {
	Device        uint8  // device ID
	Name          string // of the device
	Start, Length int64  // in bytes
}

func (e *IncompleteError) add(d *writerDevice, first, n int64) {
	e.Clusters += n
	if len(e.Ranges) < maxMissing {
		start := first * ClusterSize
		e.Ranges = append(e.Ranges, MissingRange{d.ID, d.Name, start, min(n*ClusterSize, d.Size-start)})
	}
}

// Error names the first range.
func (e *IncompleteError) Error() string {
	r := e.Ranges[0]
	more := ""
	if len(e.Ranges) > 1 {
		more = " and more"
	}
	return fmt.Sprintf("vma: %d %v: %d bytes at %d of %s%s", e.Clusters, ErrIncomplete, r.Length, r.Start, r.Name, more)
}

// Unwrap returns [ErrIncomplete].
func (e *IncompleteError) Unwrap() error { return ErrIncomplete }
