package qcow2

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/safeio"
)

// ErrNoSnapshot means that an image has no such snapshot, or that the snapshot
// was deleted meanwhile. It is also [fs.ErrNotExist].
var ErrNoSnapshot error = &sentinel{"no such snapshot", fs.ErrNotExist}

// A Snapshot describes an internal snapshot: what the disk held at a time, and
// perhaps the state of the virtual machine that used it. Section "Snapshots".
type Snapshot struct {
	ID          string        // unique in the image, usually a decimal number
	Name        string        // not necessarily unique
	Time        time.Time     // when it was taken
	VMClock     time.Duration // how long the guest had run
	VMStateSize int64         // bytes, 0 without the state of a machine
	DiskSize    int64         // of the disk at that time, in bytes

	// ICount is the number of instructions that the guest had executed, -1 if
	// they were not counted. qemu-img writes 0.
	ICount int64

	// Extra is extra data that this package does not know. It is kept.
	Extra []byte
}

// A snapshot is an entry of the snapshot table. Its fields do not change.
//
//	byte  0- 7  l1Offset
//	      8-11  l1Size
//	     12-13  length of id
//	     14-15  length of name
//	     16-19  sec
//	     20-23  nsec
//	     24-31  clock
//	     32-35  vmState, or 0 if it is too large
//	     36-39  length of the extra data
//	     40-47  vmState      (extra data from here on)
//	     48-55  disk
//	     56-63  icount
//	     64-    extra
//	            id, name, padding to a multiple of 8
type snapshot struct {
	l1Offset  uint64
	l1Size    uint32 // entries
	sec, nsec uint32 // since 1970
	clock     uint64 // nanoseconds
	vmState   uint64 // bytes
	disk      uint64 // bytes
	icount    uint64
	extra     []byte // unknown
	id, name  string

	// sized means that the entry tells the size of the disk. Otherwise disk is
	// that of the image.
	sized bool
}

// snapshotExtra is how much extra data is defined, and written.
const snapshotExtra = 24

// maxSnapshotName is the longest name that the tools look up, in bytes.
const maxSnapshotName = 255

// A snapshotTable is the snapshots of an image in the order of the file.
type snapshotTable struct {
	list []*snapshot
	size int64 // bytes in the file
}

// readSnapshots reads the snapshot table that h points to. What lies past the
// end of the file is zeros.
func readSnapshots(r io.ReaderAt, h *Header) (*snapshotTable, error) {
	t := &snapshotTable{}
	if h.SnapshotCount == 0 {
		return t, nil
	}
	limit := int64(maxSnapshotTableBytes) + 1<<20 // more than an entry past the limit
	b := bufio.NewReaderSize(io.NewSectionReader(zeroFill{r}, h.SnapshotsOffset, min(limit, math.MaxInt64-h.SnapshotsOffset)), 64<<10)
	for range h.SnapshotCount {
		at := h.SnapshotsOffset + t.size
		s, n, err := readSnapshot(b, at)
		if err != nil {
			return nil, err
		}
		if !s.sized {
			s.disk = uint64(h.Size)
		}
		if t.size += n; t.size > maxSnapshotTableBytes {
			return nil, badf(at, "snapshot table", "%d bytes: %w of %d", t.size, ErrLimit, maxSnapshotTableBytes)
		}
		t.list = append(t.list, s)
	}
	return t, nil
}

// readSnapshot reads the entry at offset at, and returns its length.
func readSnapshot(r io.Reader, at int64) (*snapshot, int64, error) {
	var b [snapshotEntrySize + maxSnapshotExtra]byte
	if _, err := io.ReadFull(r, b[:snapshotEntrySize]); err != nil {
		return nil, 0, fmt.Errorf("qcow2: snapshot table at %#x: %w", at, err)
	}
	be := binary.BigEndian
	extra := int64(be.Uint32(b[36:]))
	if extra > maxSnapshotExtra {
		return nil, 0, badf(at+36, "snapshot extra data", "%d bytes: %w of %d", extra, ErrLimit, maxSnapshotExtra)
	}
	idLen, nameLen := int64(be.Uint16(b[12:])), int64(be.Uint16(b[14:]))
	n := snapshotEntrySize + extra + idLen + nameLen
	rest := make([]byte, idLen+nameLen+align.Up(n, 8)-n)
	_, err := io.ReadFull(r, b[snapshotEntrySize:snapshotEntrySize+extra])
	if err == nil {
		_, err = io.ReadFull(r, rest)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("qcow2: snapshot table at %#x: %w", at, err)
	}
	s := &snapshot{
		l1Offset: be.Uint64(b[:]),
		l1Size:   be.Uint32(b[8:]),
		sec:      be.Uint32(b[16:]),
		nsec:     be.Uint32(b[20:]),
		clock:    be.Uint64(b[24:]),
		vmState:  uint64(be.Uint32(b[32:])),
		icount:   math.MaxUint64,
		id:       string(rest[:idLen]),
		name:     string(rest[idLen : idLen+nameLen]),
	}
	s.decodeExtra(b[snapshotEntrySize : snapshotEntrySize+extra])
	return s, align.Up(n, 8), nil
}

func (s *snapshot) decodeExtra(b []byte) {
	be := binary.BigEndian
	if len(b) >= 8 {
		s.vmState = be.Uint64(b)
	}
	if len(b) >= 16 {
		s.disk, s.sized = be.Uint64(b[8:]), true
	}
	if len(b) >= snapshotExtra {
		s.icount = be.Uint64(b[16:])
		s.extra = append([]byte(nil), b[snapshotExtra:]...)
	}
}

// append appends the entry as it is written: always with all the extra data
// that is defined, in version 2 as well.
func (s *snapshot) append(b []byte) []byte {
	be := binary.BigEndian
	first := len(b)
	b = be.AppendUint64(b, s.l1Offset)
	b = be.AppendUint32(b, s.l1Size)
	b = be.AppendUint16(b, uint16(len(s.id)))
	b = be.AppendUint16(b, uint16(len(s.name)))
	b = be.AppendUint32(b, s.sec)
	b = be.AppendUint32(b, s.nsec)
	b = be.AppendUint64(b, s.clock)
	small := uint32(0)
	if s.vmState <= math.MaxUint32 {
		small = uint32(s.vmState)
	}
	b = be.AppendUint32(b, small)
	b = be.AppendUint32(b, uint32(snapshotExtra+len(s.extra)))
	b = be.AppendUint64(b, s.vmState)
	b = be.AppendUint64(b, s.disk)
	b = be.AppendUint64(b, s.icount)
	b = append(b, s.extra...)
	b = append(b, s.id...)
	b = append(b, s.name...)
	n := len(b) - first
	return append(b, make([]byte, align.Up(n, 8)-n)...)
}

// describe returns the exported form.
func (s *snapshot) describe() Snapshot {
	return Snapshot{
		ID:          s.id,
		Name:        s.name,
		Time:        time.Unix(int64(s.sec), int64(s.nsec)),
		VMClock:     time.Duration(min(s.clock, math.MaxInt64)),
		VMStateSize: int64(min(s.vmState, math.MaxInt64)),
		DiskSize:    int64(min(s.disk, math.MaxInt64)),
		ICount:      int64(s.icount),
		Extra:       slices.Clone(s.extra),
	}
}

// encode returns the table as it is written.
func (t *snapshotTable) encode() ([]byte, error) {
	var b []byte
	for _, s := range t.list {
		if b = s.append(b); len(b) > maxSnapshotTableBytes {
			return nil, fmt.Errorf("qcow2: snapshot table: %w of %d bytes", ErrLimit, maxSnapshotTableBytes)
		}
	}
	if len(t.list) > maxSnapshots {
		return nil, fmt.Errorf("qcow2: %d snapshots: %w of %d", len(t.list), ErrLimit, maxSnapshots)
	}
	return b, nil
}

// find returns the snapshot with an ID or, if there is none, the first with
// that name.
func (t *snapshotTable) find(idOrName string) (*snapshot, error) {
	for _, s := range t.list {
		if s.id == idOrName {
			return s, nil
		}
	}
	for _, s := range t.list {
		if s.name == idOrName {
			return s, nil
		}
	}
	return nil, fmt.Errorf("%w: %q", ErrNoSnapshot, idOrName)
}

// newID returns an ID for another snapshot: a number that is larger than all
// there are.
func (t *snapshotTable) newID() string {
	var last uint64
	for _, s := range t.list {
		digits := 0
		for digits < len(s.id) && '0' <= s.id[digits] && s.id[digits] <= '9' {
			digits++
		}
		n, _ := strconv.ParseUint(s.id[:digits], 10, 64) // the largest number if it is larger
		last = max(last, n)
	}
	for {
		last++
		id := strconv.FormatUint(last, 10)
		if !slices.ContainsFunc(t.list, func(s *snapshot) bool { return s.id == id }) {
			return id
		}
	}
}

// without returns the table without a snapshot.
func (t *snapshotTable) without(gone *snapshot) *snapshotTable {
	return &snapshotTable{list: slices.DeleteFunc(slices.Clone(t.list), func(s *snapshot) bool { return s == gone })}
}

// diskSize returns the size of the snapshot's disk, and how many L1 entries
// that needs, if there can be such a disk.
func (im *Image) diskSize(s *snapshot) (size, entries int64, err error) {
	if s.disk <= math.MaxInt64 {
		size = align.Down(int64(s.disk), sectorSize)
		if entries = im.l1EntriesFor(size); entries <= maxL1Bytes/l1EntrySize {
			return size, entries, nil
		}
	}
	return 0, 0, fmt.Errorf("qcow2: snapshot %q: disk of %d bytes: %w of an L1 table of %d bytes", s.id, s.disk, ErrLimit, maxL1Bytes)
}

// checkL1 reports what makes the L1 table of a snapshot unusable.
func (im *Image) checkL1(s *snapshot) error {
	n := int64(s.l1Size) * l1EntrySize
	switch {
	case n > maxL1Bytes:
		return corruptf(int64(s.l1Offset), "L1 table of a snapshot", "%d bytes are more than %d", n, maxL1Bytes)
	case s.l1Offset > math.MaxInt64-uint64(n) || im.offsetInCluster(int64(s.l1Offset)) != 0:
		return corruptf(int64(s.l1Offset&math.MaxInt64), "L1 table of a snapshot", "offset %#x is not where a table can be", s.l1Offset)
	}
	return nil
}

// readL1 returns the L1 table of a snapshot.
func (im *Image) readL1(s *snapshot) (l1Table, error) {
	if err := im.checkL1(s); err != nil {
		return nil, err
	}
	b := make(l1Table, int64(s.l1Size)*l1EntrySize) // at most maxL1Bytes
	if err := safeio.ReadZeroFill(im.r, b, int64(s.l1Offset)); err != nil {
		return nil, fmt.Errorf("qcow2: L1 table of snapshot %q at %#x: %w", s.id, s.l1Offset, err)
	}
	return b, nil
}

// snapshotList returns the snapshots of the image.
func (im *Image) snapshotList() (*snapshotTable, error) {
	if t := im.snaps.Load(); t != nil {
		return t, nil
	}
	im.snapMu.Lock()
	defer im.snapMu.Unlock()
	if t := im.snaps.Load(); t != nil {
		return t, nil
	}
	t, err := readSnapshots(im.r, im.Header())
	if err == nil {
		im.snaps.Store(t)
	}
	return t, err
}

// Snapshots returns the internal snapshots of the image in the order of its
// snapshot table. An error means that the table cannot be understood or read.
func (im *Image) Snapshots() ([]Snapshot, error) {
	if im.closed.Load() {
		return nil, ErrClosed
	}
	t, err := im.snapshotList()
	if err != nil {
		return nil, err
	}
	list := make([]Snapshot, len(t.list))
	for i, s := range t.list {
		list[i] = s.describe()
	}
	return list, nil
}
