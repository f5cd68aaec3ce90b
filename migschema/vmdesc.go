package migschema

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
)

// maxDescObjects bounds the objects of a VMDESC: a machine with 16 CPUs has
// some thousand.
const maxDescObjects = 1 << 18

// minDescElement is how many octets an element of a VMDESC takes at least: so
// decoding takes memory in proportion to what is said, not to what is
// enumerated. QEMU writes an object and its comma in 50 and more.
const minDescElement = 12

// maxDescDepth is how deep the arrays and objects of a VMDESC may nest.
const maxDescDepth = 4096

// A VMDesc describes the state of all devices of a stream. QEMU appends it to
// the stream as JSON, from version 2.2 on.
type VMDesc struct {
	PageSize int          `json:"page_size"`
	Devices  []DeviceDesc `json:"devices"`
}

// A DeviceDesc describes the state of one device.
type DeviceDesc struct {
	Name       string `json:"name"`
	InstanceID int64  `json:"instance_id"`
	StructDesc
}

// A StructDesc describes a group of fields: a device, a struct in one, or a
// subsection.
type StructDesc struct {
	VMSDName    string       `json:"vmsd_name"` // of a subsection: its name in the stream
	Version     int64        `json:"version"`
	Fields      []FieldDesc  `json:"fields"`
	Subsections []StructDesc `json:"subsections"`
}

// A FieldDesc describes one field.
type FieldDesc struct {
	Name     string      `json:"name"`
	Type     string      `json:"type"`      // such as uint32, timer, buffer or struct
	Size     int64       `json:"size"`      // bytes of one element
	ArrayLen *int64      `json:"array_len"` // how many elements, nil for one
	Index    *int64      `json:"index"`     // among the elements of an array that are told one by one
	Struct   *StructDesc `json:"struct"`    // of type struct
}

// ParseVMDesc decodes the JSON of a VMDESC record. Errors are [CodeVMDesc].
func ParseVMDesc(data []byte) (*VMDesc, error) {
	if n := countElements(data); n > min(2*maxDescObjects, 64+len(data)/minDescElement) {
		return nil, &coded{CodeVMDesc, fmt.Errorf("%d elements in %d octets", n, len(data))}
	}
	d := new(VMDesc)
	if err := json.Unmarshal(data, d); err != nil {
		return nil, &coded{CodeVMDesc, err}
	}
	return d, nil
}

// countElements returns how many arrays, objects and commas between the
// elements of arrays there are in JSON; what nests too deep has too many.
func countElements(data []byte) int {
	var array [maxDescDepth]bool // by depth
	depth, n := 0, 0
	for i := 0; i < len(data); i++ {
		switch c := data[i]; c {
		case '"':
			for i++; i < len(data) && data[i] != '"'; i++ {
				if data[i] == '\\' {
					i++
				}
			}
		case '{', '[':
			if depth++; depth == maxDescDepth {
				return math.MaxInt
			}
			array[depth] = c == '['
			n++
		case '}', ']':
			depth = max(depth-1, 0)
		case ',':
			if array[depth] {
				n++
			}
		}
	}
	return n
}

// Device returns the description of a device, nil if there is none: the nth,
// from 0, of those with that name and instance, for QEMU numbers some alike.
func (d *VMDesc) Device(name string, instance uint32, nth int) *DeviceDesc {
	for i := range d.Devices {
		v := &d.Devices[i]
		if v.Name != name || uint32(v.InstanceID) != instance {
			continue
		}
		if nth == 0 {
			return v
		}
		nth--
	}
	return nil
}

// A descIndex finds devices as [VMDesc.Device] does, without a search.
type descIndex struct {
	desc    *VMDesc
	devices map[device][]*DeviceDesc
}

// device returns the nth description of dev in desc, nil if there is none.
func (x *descIndex) device(desc *VMDesc, dev device, nth int) *DeviceDesc {
	if desc == nil {
		return nil
	}
	if x.desc != desc {
		x.desc, x.devices = desc, make(map[device][]*DeviceDesc)
		for i := range desc.Devices {
			v := &desc.Devices[i]
			key := device{v.Name, uint32(v.InstanceID)}
			x.devices[key] = append(x.devices[key], v)
		}
	}
	if l := x.devices[dev]; nth < len(l) {
		return l[nth]
	}
	return nil
}

var errDescSize = errors.New("sizes that do not add up")

// Size returns how many bytes s takes in a classic stream: its fields, then
// its subsections, each behind a header. A description that contradicts
// itself is a [CodeVMDesc].
func (s *StructDesc) Size() (int64, error) {
	n, ok := s.size()
	if !ok {
		return 0, &coded{CodeVMDesc, fmt.Errorf("%q: %w", s.VMSDName, errDescSize)}
	}
	return n, nil
}

func (s *StructDesc) size() (n int64, ok bool) {
	for i := range s.Fields {
		size, ok := s.Fields[i].total()
		if !ok || size > math.MaxInt64-n {
			return 0, false
		}
		n += size
	}
	for i := range s.Subsections {
		sub := &s.Subsections[i]
		size, ok := sub.size()
		head := int64(subsectionHead + len(sub.VMSDName))
		if !ok || size > math.MaxInt64-n-head {
			return 0, false
		}
		n += size + head
	}
	return n, true
}

// subsectionHead is what precedes a subsection besides its name: 05, the
// length of the name, the version.
const subsectionHead = 1 + 1 + 4

// count returns how many elements f has.
func (f *FieldDesc) count() int64 {
	if f.ArrayLen == nil {
		return 1
	}
	return *f.ArrayLen
}

// total returns how many bytes all elements of f take.
func (f *FieldDesc) total() (int64, bool) {
	n := f.count()
	if n < 0 || f.Size < 0 || f.Size > 0 && n > math.MaxInt64/f.Size {
		return 0, false
	}
	return n * f.Size, true
}
