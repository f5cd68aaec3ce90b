package libxlfmt

import (
	"encoding/binary"
	"errors"
	"io"

	"github.com/virtfmt/virtfmt/internal/cursor"
	"github.com/virtfmt/virtfmt/internal/safeio"
)

// A Body is the decoded body of a record. The package's own are
// [Xenstore], [EmulatorState], [CheckpointState], [PageBatch], [PVInfo],
// [P2MFrames], [VCPU], [SharedInfo], [TSCInfo], [HVMContext], [HVMParams],
// [DirtyPFNs], [CPUIDPolicy], [MSRPolicy], [Mark] and [Raw].
type Body interface {
	// Type returns the type of record that holds the body.
	Type() Type
	// AppendBody appends the body as it stands in a stream of that byte
	// order, without padding.
	AppendBody(b []byte, o binary.AppendByteOrder) []byte
}

// A Mark is a record without a body, such as STATIC_DATA_END.
type Mark Type

// Type returns the type of the record.
func (m Mark) Type() Type { return Type(m) }

// AppendBody returns b.
func (m Mark) AppendBody(b []byte, _ binary.AppendByteOrder) []byte { return b }

// A Raw is a body that is not decoded, such as that of an optional record.
type Raw struct {
	RecordType Type
	Data       []byte
}

// Type returns RecordType.
func (r Raw) Type() Type { return r.RecordType }

// AppendBody appends Data.
func (r Raw) AppendBody(b []byte, _ binary.AppendByteOrder) []byte { return append(b, r.Data...) }

// maxDecode is the longest body that is decoded as a whole.
const maxDecode = maxLibxcRecord

var errShortBody = errors.New("body too short for its header")

// Decode decodes the body b of record r, padding left off. The form of
// EMULATOR_XENSTORE_DATA is found out from its content. What is decoded may
// keep views of b. Errors are of type [*FormatError].
func Decode(r Record, b []byte) (Body, error) { return decode(r, XenstoreAuto, b) }

func decode(r Record, form XenstoreForm, b []byte) (Body, error) {
	body, err := decodeBody(r, form, b)
	if err != nil {
		return nil, &FormatError{Offset: r.BodyOffset(), Field: r.Type.field(), Code: CodeLength, Err: err}
	}
	return body, nil
}

func decodeBody(r Record, form XenstoreForm, b []byte) (Body, error) {
	o := r.Order()
	c := cursor.New(o, r.Type.field(), r.BodyOffset(), b)
	switch r.Type {
	case TypeXenstore:
		return decodeXenstore(o, form, b)
	case TypeEmulator:
		s := EmulatorState{Emulator{EmulatorID(c.Uint32()), c.Uint32()}, c.Rest()}
		return s, c.Err()
	case TypeCheckpointState:
		return CheckpointState(c.Uint32()), whole(c)
	case TypePageData:
		return decodePageBatch(o, b)
	case TypePVInfo:
		return decodePVInfo(c)
	case TypeP2MFrames:
		return decodeP2MFrames(c)
	case TypeVCPUBasic, TypeVCPUExtended, TypeVCPUXSave, TypeVCPUMSRs:
		v := VCPU{Kind: r.Type, ID: c.Uint32()}
		c.Skip(4)
		v.State = c.Rest()
		return v, c.Err()
	case TypeSharedInfo:
		s := SharedInfo{c.Bytes(sharedInfoSize)}
		return s, whole(c)
	case TypeTSCInfo:
		t := TSCInfo{Mode: c.Uint32(), KHz: c.Uint32(), Nanoseconds: c.Uint64(), Incarnation: c.Uint32()}
		c.Skip(4)
		return t, whole(c)
	case TypeHVMContext:
		return HVMContext{Data: b, BigEndian: r.BigEndian}, nil
	case TypeHVMParams:
		return decodeHVMParams(c)
	case TypeDirtyPFNs:
		d := make(DirtyPFNs, len(b)/8)
		for i := range d {
			d[i] = c.Uint64()
		}
		return d, whole(c)
	case TypeCPUIDPolicy:
		return decodeCPUIDPolicy(c)
	case TypeMSRPolicy:
		return decodeMSRPolicy(c)
	}
	if len(b) == 0 && r.Type.Known() {
		return Mark(r.Type), nil
	}
	return Raw{r.Type, b}, nil
}

var errLongBody = errors.New("body longer than its contents")

// whole returns an error unless all of a body was consumed.
func whole(c *cursor.Cursor) error {
	if c.Err() != nil {
		return c.Err()
	}
	if c.Len() != 0 {
		return errLongBody
	}
	return nil
}

// noEOF turns the end of the source inside a body into a truncation.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readInto reads n bytes into buf where it has room, otherwise into memory
// that grows with what was read.
func readInto(r io.Reader, n int64, buf []byte) ([]byte, error) {
	if n > int64(cap(buf)) {
		return safeio.Read(r, n, maxDecode)
	}
	buf = buf[:n]
	_, err := io.ReadFull(r, buf)
	return buf, noEOF(err)
}
