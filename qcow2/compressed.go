package qcow2

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/virtfmt/virtfmt/internal/inflate"
)

// A codec decodes the compressed clusters of an image, each into the whole
// cluster, and keeps the last few.
type codec struct {
	kind       CompressionType
	cluster    int
	decompress func(dst, src []byte) error

	zstdOnce    sync.Once
	zstd        *zstd.Decoder
	inputs      sync.Pool // of *[]byte: compressed data
	compressors sync.Pool // of *compressor
	outputs     sync.Pool // of *[]byte: a cluster and zstdSlack
	kept        decoded
}

func (c *codec) init(h *Header) {
	c.kind = h.CompressionType
	c.cluster = int(h.ClusterSize())
	c.decompress = unflate
	if h.CompressionType == CompressionZstd {
		c.decompress = c.unzstd
	}
	c.kept.init(c.cluster)
}

// readCompressed fills p from offset in of the compressed cluster e.
func (im *Image) readCompressed(p []byte, e l2Entry, in int64) error {
	kept := &im.codec.kept
	if len(p) == im.codec.cluster {
		if kept.copy(p, e) {
			return nil
		}
		return im.decode(p, e)
	}
	s, found := kept.acquire(e)
	if s == nil { // all are in use
		whole := make([]byte, im.codec.cluster)
		if err := im.decode(whole, e); err != nil {
			return err
		}
		copy(p, whole[in:])
		return nil
	}
	if !found {
		kept.filled(s, im.decode(s.data, e))
	}
	err := s.err
	if err == nil {
		copy(p, s.data[in:])
	}
	kept.release(s)
	return err
}

// decode decompresses the cluster e into dst, which is as long as a cluster.
func (im *Image) decode(dst []byte, e l2Entry) error {
	off, n := im.compressedRange(e)
	buf, _ := im.codec.inputs.Get().(*[]byte)
	if buf == nil {
		buf = new([]byte)
	}
	defer im.codec.inputs.Put(buf)
	if int64(cap(*buf)) < n {
		*buf = make([]byte, n)
	}
	src := (*buf)[:n]
	// The last sector may lie past the end of the file.
	got, err := im.r.ReadAt(src, int64(off))
	if int64(got) < n && !isEnd(err) {
		return fmt.Errorf("qcow2: compressed cluster at %#x: %w", off, err)
	}
	if err := im.codec.decompress(dst, src[:got]); err != nil {
		return &FormatError{Offset: int64(off), Field: "compressed cluster", Err: err}
	}
	return nil
}

var inflaters = sync.Pool{New: func() any { return new(inflate.Decoder) }}

// unflate decodes raw deflate data until dst is full. What follows is not
// looked at: the length of the data is only known in sectors.
func unflate(dst, src []byte) error {
	d := inflaters.Get().(*inflate.Decoder)
	defer inflaters.Put(d)
	_, err := d.Decode(dst, src)
	return err
}

var (
	errOverlong = errors.New("a zstd frame does not end with the cluster")
	errNoFrame  = errors.New("not a zstd frame")
)

// zstdSlack is how much room behind its output the zstd decoder needs to run
// at full speed: without, it takes 1.6 times as long.
const zstdSlack = 16

// unzstd decodes zstd frames until dst is full, which must be at the end of
// one. What follows is not looked at.
func (c *codec) unzstd(dst, src []byte) error {
	c.zstdOnce.Do(func() {
		// The decoder takes a window of less than 1 KiB for one of that size.
		c.zstd, _ = zstd.NewReader(nil, zstd.WithDecoderConcurrency(0),
			zstd.WithDecoderMaxMemory(uint64(max(c.cluster, zstd.MinWindowSize))), zstd.WithDecoderMaxWindow(128<<20))
	})
	buf, _ := c.outputs.Get().(*[]byte)
	if buf == nil {
		buf = new([]byte)
		*buf = make([]byte, c.cluster+zstdSlack)
	}
	defer c.outputs.Put(buf)
	for n := 0; n < len(dst); {
		frame, rest, err := cutFrame(src)
		if err != nil {
			return err
		}
		out, err := c.zstd.DecodeAll(frame, (*buf)[n:n])
		if errors.Is(err, zstd.ErrDecoderSizeExceeded) || len(out) > len(dst)-n {
			return errOverlong
		}
		if err != nil {
			return err
		}
		n += len(out)
		src = rest
	}
	copy(dst, *buf)
	return nil
}

// cutFrame cuts the first frame off src: RFC 8878, section 3.1.
func cutFrame(src []byte) (frame, rest []byte, err error) {
	var h zstd.Header
	if err := h.Decode(src); err != nil {
		if err == zstd.ErrMagicMismatch {
			err = errNoFrame
		}
		return nil, nil, err
	}
	n := int64(h.HeaderSize)
	if h.Skippable {
		n += int64(h.SkippableSize)
	}
	for last := h.Skippable; !last; {
		if n+3 > int64(len(src)) {
			return nil, nil, io.ErrUnexpectedEOF
		}
		b := uint32(src[n]) | uint32(src[n+1])<<8 | uint32(src[n+2])<<16
		last = b&1 != 0
		n += 3
		if b>>1&3 == 1 { // one byte, repeated
			n++
		} else {
			n += int64(b >> 3)
		}
	}
	if h.HasCheckSum {
		n += 4
	}
	if n > int64(len(src)) {
		return nil, nil, io.ErrUnexpectedEOF
	}
	return src[:n], src[n:], nil
}

// decoded holds the last few clusters that were decompressed for reads of
// less than a cluster. Concurrent reads of one cluster decompress it once.
type decoded struct {
	mu    sync.Mutex
	ready sync.Cond
	clock uint64
	slots []decodedCluster
	size  int // of a cluster
}

type decodedCluster struct {
	entry   l2Entry // 0 while the slot holds nothing
	data    []byte
	err     error
	filling bool
	users   int
	used    uint64 // clock of the last use
}

// decodedBytes is what the clusters take at most, but for at least two.
const decodedBytes = 1 << 20

func (d *decoded) init(cluster int) {
	d.ready.L = &d.mu
	d.size = cluster
}

// acquire returns the slot of cluster e, and whether it is filled already;
// if not, the caller fills it. It is nil if all slots are in use. Every slot
// is released once.
func (d *decoded) acquire(e l2Entry) (s *decodedCluster, found bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.slots == nil {
		d.slots = make([]decodedCluster, min(16, max(2, decodedBytes/d.size)))
	}
	d.clock++
	var oldest *decodedCluster
	for i := range d.slots {
		s := &d.slots[i]
		if s.entry == e {
			s.users++
			s.used = d.clock
			for s.filling {
				d.ready.Wait()
			}
			return s, true
		}
		if s.users == 0 && (oldest == nil || s.used < oldest.used) {
			oldest = s
		}
	}
	if s = oldest; s == nil {
		return nil, false
	}
	if s.data == nil {
		s.data = make([]byte, d.size)
	}
	s.entry, s.users, s.used, s.filling, s.err = e, 1, d.clock, true, nil
	return s, false
}

// filled ends the filling of s, and forgets it if that did not succeed.
func (d *decoded) filled(s *decodedCluster, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s.filling, s.err = false, err
	if err != nil {
		s.entry = 0 // those who wait for it still get the error
	}
	d.ready.Broadcast()
}

func (d *decoded) release(s *decodedCluster) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s.users--
}

// copy copies cluster e to p if it is held.
func (d *decoded) copy(p []byte, e l2Entry) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.slots {
		if s := &d.slots[i]; s.entry == e && !s.filling {
			copy(p, s.data)
			return true
		}
	}
	return false
}

// drop forgets clusters whose compressed data lies in the n bytes at off.
func (d *decoded) drop(l *layout, off hostOff, n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.slots {
		s := &d.slots[i]
		if s.entry == 0 || s.filling {
			continue
		}
		if at, m := l.compressedRange(s.entry); at < off+hostOff(n) && off < at+hostOff(m) {
			s.entry = 0
		}
	}
}
