package vma

import (
	"bytes"
	"crypto/md5"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/block"
)

// Sizes of the format.
const (
	BlockSize        = 4096                    // bytes that are stored or left out together
	ClusterSize      = 65536                   // bytes of a device that one slot of an extent covers
	BlocksPerCluster = ClusterSize / BlockSize // 16
	MaxDevices       = 254                     // devices that Proxmox's tool handles, IDs 1 to 254
	MaxConfigs       = 256                     // configuration files
	MaxBlobSize      = 65535                   // bytes of a configuration file, or of a name and its NUL
	MaxDeviceSize    = ClusterSize << 32       // 256 TiB: cluster numbers have 32 bits
)

// VMStateName is the device name that is reserved for the state of the
// machine, whose clusters are stored in ascending order.
const VMStateName = "vmstate"

// A Header is what an archive says of itself before its data.
type Header struct {
	UUID    [16]byte     // also in every extent
	CTime   int64        // when the backup was made, in seconds since 1970
	Configs []Config     // in the order of their slots
	Devices []DeviceInfo // in order of ID

	// Size is the length of the header in the archive, where the first extent
	// begins. BlobOffset and BlobSize say where names and configs lie in it.
	// A [Writer] computes them.
	Size, BlobOffset, BlobSize int64
}

// A Config is a configuration file of the machine, such as qemu-server.conf.
type Config struct {
	Name string // as stored; see [SafeName]
	Data []byte // at most [MaxBlobSize] bytes
}

// A DeviceInfo names a device of an archive.
type DeviceInfo struct {
	ID   uint8  // 1 to 255
	Name string // as stored, such as "drive-scsi0"; see [SafeName]
	Size int64  // bytes, at most [MaxDeviceSize]
}

// Clusters returns how many clusters the device has; the last may be short.
func (d DeviceInfo) Clusters() int64 { return align.CeilDiv(d.Size, ClusterSize) }

// total returns the bytes of the clusters of all devices.
func (h *Header) total() (n int64) {
	for _, d := range h.Devices {
		n += d.Clusters() * ClusterSize
	}
	return n
}

// Time returns CTime as a time.
func (h Header) Time() time.Time { return time.Unix(h.CTime, 0) }

// VMState returns the device that holds the state of the machine: the last
// one of the name [VMStateName].
func (h Header) VMState() (d DeviceInfo, ok bool) {
	for _, d := range slices.Backward(h.Devices) {
		if d.Name == VMStateName {
			return d, true
		}
	}
	return DeviceInfo{}, false
}

// Config returns the data of the configuration file of that name.
func (h Header) Config(name string) (data []byte, ok bool) {
	for _, c := range h.Configs {
		if c.Name == name {
			return c.Data, true
		}
	}
	return nil, false
}

// clone returns a copy that shares nothing with h.
func (h *Header) clone() Header {
	c := *h
	c.Configs = slices.Clone(h.Configs)
	for i := range c.Configs {
		c.Configs[i].Data = bytes.Clone(c.Configs[i].Data)
	}
	c.Devices = slices.Clone(h.Devices)
	return c
}

// The header, "VMA Header" of the specification. All integers are big-endian.
const (
	magic   = "VMA\x00"
	version = 1

	offVersion     = 4    // uint32
	offUUID        = 8    // 16 bytes
	offCTime       = 24   // int64
	offMD5         = 32   // 16 bytes, taken as zero while summing the header
	offBlobOffset  = 48   // uint32
	offBlobSize    = 52   // uint32
	offHeaderSize  = 56   // uint32
	offReserved    = 60   // to offConfigNames
	offConfigNames = 2044 // uint32[256], 0 for none
	offConfigData  = 3068 // uint32[256]
	offReserved2   = 4092 // to offDevices
	offDevices     = 4096 // 256 entries: uint32 name, 4 reserved, uint64 size, 16 reserved
	deviceEntry    = 32
	fixedHeader    = 12288 // the blob buffer follows
)

// checksum returns the MD5 of b with the 16 bytes at off taken as zero. It
// changes b while it runs.
func checksum(b []byte, off int) [16]byte {
	field := (*[16]byte)(b[off:])
	stored := *field
	*field = [16]byte{}
	sum := md5.Sum(b)
	*field = stored
	return sum
}

// validHeaderSize reports whether the reference reader takes n as
// header_size: above the fixed part, and the rest not negative as an int32.
func validHeaderSize(n int64) bool { return n > fixedHeader && n-fixedHeader <= 1<<31-1 }

// decodeHeader decodes a header of len(b) bytes, which passed
// validHeaderSize or is what a salvage takes for one. It decodes what it can
// and tells found what is wrong.
//
// Preconditions: len(b) >= fixedHeader.
func decodeHeader(b []byte, found func(code Code, off int64, dev uint8, detail string)) Header {
	u32 := func(off int) uint32 { return binary.BigEndian.Uint32(b[off:]) }
	h := Header{
		UUID:       [16]byte(b[offUUID:]),
		CTime:      int64(binary.BigEndian.Uint64(b[offCTime:])),
		BlobOffset: int64(u32(offBlobOffset)),
		BlobSize:   int64(u32(offBlobSize)),
		Size:       int64(len(b)),
	}
	if checksum(b, offMD5) != [16]byte(b[offMD5:]) {
		found(CodeHeaderMD5, offMD5, 0, "")
	}
	if v := u32(offVersion); v != version {
		found(CodeHeaderVersion, offVersion, 0, fmt.Sprint(v))
	}
	for _, r := range [...][2]int{{offReserved, offConfigNames}, {offReserved2, offDevices}} {
		if i := firstNonZero(b[r[0]:r[1]]); i >= 0 {
			found(CodeReserved, int64(r[0]+i), 0, "")
		}
	}
	blobs := decodeBlobs(b, &h, found)
	decodeConfigs(b, &h, blobs, found)
	decodeDevices(b, &h, blobs, found)
	return h
}

// decodeBlobs returns the blobs that the tables of the header point to.
func decodeBlobs(b []byte, h *Header, found func(Code, int64, uint8, string)) blobs {
	// The reference reader adds in 32 bits. A sum that wraps to 0 is below the
	// fixed header; any other leaves an empty buffer.
	start, end := h.BlobOffset+1, h.BlobOffset+h.BlobSize
	detail := fmt.Sprintf("%#x to %#x", h.BlobOffset, end)
	switch {
	case start <= fixedHeader || start > 1<<32-1:
		found(CodeBlobRange, offBlobOffset, 0, detail)
		return nil
	case end > 1<<32-1:
		found(CodeBlobWrap, offBlobSize, 0, detail)
		if end-1<<32 > int64(len(b)) {
			found(CodeBlobRange, offBlobSize, 0, detail)
		}
		return nil
	case end > int64(len(b)):
		found(CodeBlobRange, offBlobSize, 0, detail)
		return nil
	}
	want := make([]uint32, 0, 2*MaxConfigs+256)
	for i := range 2 * MaxConfigs {
		want = append(want, binary.BigEndian.Uint32(b[offConfigNames+4*i:]))
	}
	for i := range 256 {
		want = append(want, binary.BigEndian.Uint32(b[offDevices+deviceEntry*i:]))
	}
	bl, overrun := findBlobs(b[h.BlobOffset:end], want)
	if overrun >= 0 {
		found(CodeBlobOverrun, h.BlobOffset+overrun, 0, "")
	}
	return bl
}

// decodeConfigs fills h.Configs.
func decodeConfigs(b []byte, h *Header, bl blobs, found func(Code, int64, uint8, string)) {
	seen := make(map[string]bool)
	for i := range MaxConfigs {
		at := int64(offConfigNames + 4*i)
		name, data := binary.BigEndian.Uint32(b[at:]), binary.BigEndian.Uint32(b[offConfigData+4*i:])
		if name == 0 || data == 0 {
			if name != data {
				found(CodeConfigHalf, at, 0, fmt.Sprintf("config %d", i))
			}
			continue
		}
		text, ok := bl.text(name)
		content, ok2 := bl[data]
		if !ok || !ok2 {
			found(CodeConfigPointer, at, 0, fmt.Sprintf("config %d: name %#x, data %#x", i, name, data))
			continue
		}
		if reason := badName(text, seen); reason != "" {
			found(CodeConfigName, at, 0, fmt.Sprintf("config %d: %s: %.80q", i, reason, text))
		}
		h.Configs = append(h.Configs, Config{Name: text, Data: bytes.Clone(content)})
	}
}

// decodeDevices fills h.Devices.
func decodeDevices(b []byte, h *Header, bl blobs, found func(Code, int64, uint8, string)) {
	seen := make(map[string]bool)
	for i := range 256 {
		at := offDevices + deviceEntry*i
		entry := b[at : at+deviceEntry]
		ptr, size := binary.BigEndian.Uint32(entry), binary.BigEndian.Uint64(entry[8:])
		if firstNonZero(entry[4:8]) >= 0 || firstNonZero(entry[16:]) >= 0 || i == 0 && (ptr != 0 || size != 0) {
			found(CodeReserved, int64(at), uint8(i), fmt.Sprintf("device entry %d", i))
		}
		if i == 0 || ptr == 0 && size == 0 {
			continue
		}
		text, ok := bl.text(ptr)
		switch {
		case size == 0 || !ok:
			found(CodeDeviceEntry, int64(at), uint8(i), fmt.Sprintf("device %d: name %#x, size %d", i, ptr, size))
			continue
		case size > MaxDeviceSize:
			found(CodeDeviceSize, int64(at), uint8(i), fmt.Sprintf("device %d: %d bytes", i, size))
			continue
		case size%512 != 0:
			found(CodeSectorSize, int64(at), uint8(i), fmt.Sprintf("device %d: %d bytes", i, size))
		}
		if reason := badName(text, seen); reason != "" {
			found(CodeDeviceName, int64(at), uint8(i), fmt.Sprintf("device %d: %s: %.80q", i, reason, text))
		}
		h.Devices = append(h.Devices, DeviceInfo{ID: uint8(i), Name: text, Size: int64(size)})
	}
}

// badName says what a strict reader holds against a name, "" for nothing.
func badName(name string, seen map[string]bool) string {
	defer func() { seen[name] = true }()
	switch {
	case !isSafeName(name):
		return "unsafe name"
	case seen[name]:
		return "repeated name"
	}
	return ""
}

// firstNonZero returns the index of the first byte that is not zero, or -1.
func firstNonZero(b []byte) int {
	if block.IsZero(b) {
		return -1
	}
	return slices.IndexFunc(b, func(c byte) bool { return c != 0 })
}

// UnmarshalBinary decodes a whole header, as [Proxmox] accepts it: b is the
// first header_size bytes of an archive. The header shares nothing with b.
func (h *Header) UnmarshalBinary(b []byte) error {
	src := newBytesSource(b)
	rep := &Report{}
	got, err := readHeader(src, rep, (*Options)(nil).withDefaults(), false)
	if err != nil {
		return err
	}
	if got.Size != int64(len(b)) {
		return &FormatError{Offset: offHeaderSize, Field: "header", Err: fmt.Errorf("header size %d, have %d bytes", got.Size, len(b))}
	}
	*h = got
	return nil
}

// AppendBinary appends the header as a [Writer] writes it: configs take the
// first slots, the blob buffer follows the fixed part and is padded to 512
// bytes. Size, BlobOffset and BlobSize of h are not used. An error names what
// the format cannot hold.
func (h Header) AppendBinary(b []byte) ([]byte, error) {
	if err := h.valid(); err != nil {
		return b, err
	}
	base := len(b)
	b = append(b, make([]byte, fixedHeader+1)...) // the first blob lies at 1
	blob := func(ptr int, data []byte, nul string) {
		binary.BigEndian.PutUint32(b[base+ptr:], uint32(len(b)-base-fixedHeader))
		b = binary.LittleEndian.AppendUint16(b, uint16(len(data)+len(nul)))
		b = append(append(b, data...), nul...)
	}
	for i, c := range h.Configs {
		blob(offConfigNames+4*i, []byte(c.Name), "\x00")
		blob(offConfigData+4*i, c.Data, "")
	}
	for _, d := range h.Devices {
		at := offDevices + deviceEntry*int(d.ID)
		blob(at, []byte(d.Name), "\x00")
		binary.BigEndian.PutUint64(b[base+at+8:], uint64(d.Size))
	}
	used := len(b) - base - fixedHeader
	b = append(b, make([]byte, align.Up(used, 512)-used)...)
	hdr := b[base:]
	copy(hdr, magic)
	binary.BigEndian.PutUint32(hdr[offVersion:], version)
	copy(hdr[offUUID:], h.UUID[:])
	binary.BigEndian.PutUint64(hdr[offCTime:], uint64(h.CTime))
	binary.BigEndian.PutUint32(hdr[offBlobOffset:], fixedHeader)
	binary.BigEndian.PutUint32(hdr[offBlobSize:], uint32(used))
	binary.BigEndian.PutUint32(hdr[offHeaderSize:], uint32(len(hdr)))
	sum := checksum(hdr, offMD5)
	copy(hdr[offMD5:], sum[:])
	return b, nil
}

// valid says what keeps h from being written.
func (h *Header) valid() error {
	if len(h.Configs) > MaxConfigs {
		return fmt.Errorf("vma: %d configs, at most %d", len(h.Configs), MaxConfigs)
	}
	configs, devices := make(map[string]bool), make(map[string]bool)
	for _, c := range h.Configs {
		if err := writableName(c.Name, configs); err != nil {
			return fmt.Errorf("vma: config %.80q: %w", c.Name, err)
		}
		if len(c.Data) > MaxBlobSize {
			return fmt.Errorf("vma: config %q: %d bytes, at most %d", c.Name, len(c.Data), MaxBlobSize)
		}
	}
	var ids [256]bool
	for _, d := range h.Devices {
		if err := writableName(d.Name, devices); err != nil {
			return fmt.Errorf("vma: device %.80q: %w", d.Name, err)
		}
		switch {
		case d.ID == 0 || d.ID > MaxDevices || ids[d.ID]:
			return fmt.Errorf("vma: device %q: ID %d is out of range or taken", d.Name, d.ID)
		case d.Size <= 0 || d.Size > MaxDeviceSize || d.Size%512 != 0:
			return fmt.Errorf("vma: device %q: size %d is not a positive multiple of 512 up to %d", d.Name, d.Size, int64(MaxDeviceSize))
		}
		ids[d.ID] = true
	}
	return nil
}

func writableName(name string, seen map[string]bool) error {
	if len(name) >= MaxBlobSize {
		return fmt.Errorf("name of %d bytes, at most %d", len(name), MaxBlobSize-1)
	}
	if reason := badName(name, seen); reason != "" {
		return errors.New(reason)
	}
	return nil
}
