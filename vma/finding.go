package vma

import (
	"errors"
	"fmt"
	"io"
)

// A Profile is the set of rules that an archive is judged by.
type Profile uint8

const (
	// Proxmox accepts what Proxmox's own tool extracts and refuses what it
	// refuses. It is the default.
	Proxmox Profile = iota
	// Strict accepts only what the format describes: no unsafe or repeated
	// names, no reserved field in use, no cluster past the end of its device.
	Strict
	// Salvage goes on at damage and recovers what can be read.
	Salvage

	numProfiles
)

// String returns the name of p: proxmox, strict or salvage.
func (p Profile) String() string {
	switch p {
	case Proxmox:
		return "proxmox"
	case Strict:
		return "strict"
	case Salvage:
		return "salvage"
	}
	return fmt.Sprintf("profile(%d)", uint8(p))
}

// A Severity says what a finding means for the archive.
type Severity uint8

const (
	// Note is worth knowing and harms nothing.
	Note Severity = iota
	// Warning is wrong, but no content is lost by it.
	Warning
	// Error makes the archive one that the profile refuses, or under
	// [Salvage] means that content is lost.
	Error
)

// String returns the name of s: note, warning or error.
func (s Severity) String() string {
	switch s {
	case Note:
		return "note"
	case Warning:
		return "warning"
	case Error:
		return "error"
	}
	return fmt.Sprintf("severity(%d)", uint8(s))
}

// A Code is the kind of a [Finding].
type Code uint8

// The first block of codes speaks of the header, the second of extents, the
// third of clusters, the last of the archive as a whole.
const (
	CodeHeaderMagic   Code = iota // the archive does not begin with "VMA\0"
	CodeHeaderVersion             // the version is not 1
	CodeHeaderSize                // header_size is too small or over the limit
	CodeHeaderMD5                 // the checksum of the header is wrong
	CodeBlobRange                 // the blob buffer is not inside the header
	CodeBlobWrap                  // blob_buffer_offset + blob_buffer_size passes 32 bits
	CodeBlobOverrun               // the last blob passes the end of the buffer
	CodeConfigPointer             // a config's name or data is not a blob
	CodeConfigHalf                // only one of a config's two pointers is set
	CodeConfigName                // a config's name is unsafe as a file name, or repeated
	CodeDeviceEntry               // a device entry without a size or a name is ignored
	CodeDeviceName                // a device's name is unsafe as a file name, or repeated
	CodeDeviceSize                // a device is larger than cluster numbers reach
	CodeSectorSize                // a device's size is not a multiple of 512 bytes
	CodeReference                 // valid, but beyond what Proxmox's tool handles
	CodeReserved                  // a reserved field is not zero

	CodeTruncated      // the archive ends inside a structure
	CodeExtentMagic    // an extent does not begin with "VMAE"
	CodeExtentMD5      // the checksum of an extent header is wrong
	CodeExtentUUID     // an extent belongs to another archive
	CodeExtentReserved // the field after the magic of an extent is not zero
	CodeBlockCount     // block_count is over 944 or differs from the masks
	CodeUnusedSlot     // a slot without a device is not all zero

	CodeDeviceID       // a slot names a device that the header does not
	CodeClusterRange   // a cluster lies past the end of its device
	CodePadding        // an empty cluster lies past the end of its device
	CodeBlockRange     // a stored block lies past the end of its device
	CodeTailBlocks     // the last cluster is stored whole, past the end of its device
	CodeDuplicate      // a cluster is in the archive twice
	CodeVMStateOrder   // the clusters of vmstate are not 0, 1, 2 and so on
	CodeVMStateRange   // a cluster of vmstate lies past its size
	CodeOutOfOrder     // a cluster comes after a higher one of its device
	CodeInterleaved    // a device goes on after clusters of another
	CodeMissing        // clusters of a device are not in the archive
	CodeVMStateMissing // the last clusters of vmstate are not in the archive
	CodeLost           // stored blocks are cut off or in doubt

	CodeTrailing // bytes that are no extent follow the last extent
	CodeSkipped  // bytes between two extents belong to neither

	numCodes
)

// codeInfo gives each code its text and what it means under each [Profile].
var codeInfo = [numCodes]struct {
	text     string
	severity [numProfiles]Severity // Proxmox, Strict, Salvage
}{
	CodeHeaderMagic:   {"wrong header magic", [...]Severity{Error, Error, Error}},
	CodeHeaderVersion: {"unsupported version", [...]Severity{Error, Error, Warning}},
	CodeHeaderSize:    {"wrong header size", [...]Severity{Error, Error, Warning}},
	CodeHeaderMD5:     {"wrong header checksum", [...]Severity{Error, Error, Warning}},
	CodeBlobRange:     {"blob buffer outside the header", [...]Severity{Error, Error, Warning}},
	CodeBlobWrap:      {"blob buffer range overflows", [...]Severity{Warning, Error, Warning}},
	CodeBlobOverrun:   {"blob passes the end of the buffer", [...]Severity{Warning, Error, Warning}},
	CodeConfigPointer: {"invalid config pointer", [...]Severity{Error, Error, Warning}},
	CodeConfigHalf:    {"config with one pointer", [...]Severity{Warning, Error, Warning}},
	CodeConfigName:    {"bad config name", [...]Severity{Warning, Error, Warning}},
	CodeDeviceEntry:   {"device entry ignored", [...]Severity{Warning, Error, Warning}},
	CodeDeviceName:    {"bad device name", [...]Severity{Warning, Error, Warning}},
	CodeDeviceSize:    {"device size over the limit", [...]Severity{Error, Error, Warning}},
	CodeSectorSize:    {"device size not a multiple of 512", [...]Severity{Warning, Warning, Note}},
	CodeReference:     {"beyond what Proxmox handles", [...]Severity{Error, Note, Note}},
	CodeReserved:      {"reserved field is not zero", [...]Severity{Note, Error, Note}},

	CodeTruncated:      {"archive ends early", [...]Severity{Error, Error, Warning}},
	CodeExtentMagic:    {"wrong extent magic", [...]Severity{Error, Error, Warning}},
	CodeExtentMD5:      {"wrong extent header checksum", [...]Severity{Error, Error, Warning}},
	CodeExtentUUID:     {"wrong extent uuid", [...]Severity{Error, Error, Warning}},
	CodeExtentReserved: {"reserved field of the extent is not zero", [...]Severity{Error, Error, Warning}},
	CodeBlockCount:     {"wrong block count", [...]Severity{Error, Error, Warning}},
	CodeUnusedSlot:     {"unused slot is not zero", [...]Severity{Note, Warning, Note}},

	CodeDeviceID:       {"unknown device", [...]Severity{Error, Error, Warning}},
	CodeClusterRange:   {"cluster past the end of the device", [...]Severity{Error, Error, Warning}},
	CodePadding:        {"empty cluster past the end of the device", [...]Severity{Note, Error, Note}},
	CodeBlockRange:     {"block past the end of the device", [...]Severity{Error, Error, Warning}},
	CodeTailBlocks:     {"last cluster stored past the end of the device", [...]Severity{Note, Note, Note}},
	CodeDuplicate:      {"duplicate cluster", [...]Severity{Error, Error, Warning}},
	CodeVMStateOrder:   {"vmstate cluster out of order", [...]Severity{Error, Error, Warning}},
	CodeVMStateRange:   {"vmstate cluster past its size", [...]Severity{Note, Warning, Note}},
	CodeOutOfOrder:     {"cluster out of order", [...]Severity{Note, Note, Note}},
	CodeInterleaved:    {"devices interleaved", [...]Severity{Note, Note, Note}},
	CodeMissing:        {"missing clusters", [...]Severity{Error, Error, Error}},
	CodeVMStateMissing: {"missing vmstate clusters", [...]Severity{Warning, Error, Error}},
	CodeLost:           {"blocks lost", [...]Severity{Error, Error, Error}},

	CodeTrailing: {"trailing bytes", [...]Severity{Error, Error, Warning}},
	CodeSkipped:  {"bytes skipped", [...]Severity{Error, Error, Warning}},
}

// String returns what c means, such as "duplicate cluster".
func (c Code) String() string {
	if c < numCodes {
		return codeInfo[c].text
	}
	return fmt.Sprintf("code(%d)", uint8(c))
}

// severity returns what c means under p.
func (c Code) severity(p Profile) Severity { return codeInfo[c].severity[p] }

// A Finding is one thing to be said about an archive. It is an error, so that
// a reader that stops at it can return it inside a [FormatError].
type Finding struct {
	Code     Code
	Severity Severity // what Code means under the profile
	Offset   int64    // in the archive
	Extent   int64    // number of the extent, from 0; -1 for the header
	Slot     int      // slot of the extent, 0 to 58; -1 for none
	Device   uint8    // device ID, 0 for none
	Cluster  uint32   // the cluster, or the first of several
	// Count is how many clusters are missing ([CodeMissing],
	// [CodeVMStateMissing]) or how many bytes are meant ([CodeTrailing],
	// [CodeSkipped], [CodeLost]), 0 for all other codes.
	Count  int64
	Detail string // what was found, may be empty
}

// Error describes what is wrong; the place is left to [Finding.Place].
func (f Finding) Error() string {
	s := f.Code.String()
	switch f.Code {
	case CodeMissing, CodeVMStateMissing:
		s = fmt.Sprintf("%s: device %d clusters %d to %d", s, f.Device, f.Cluster, int64(f.Cluster)+f.Count-1)
	case CodeTrailing, CodeSkipped:
		s = fmt.Sprintf("%s: %d", s, f.Count)
	default:
		if f.Slot >= 0 && f.Device != 0 {
			s = fmt.Sprintf("%s: device %d cluster %d", s, f.Device, f.Cluster)
		}
		if f.Code == CodeLost {
			s = fmt.Sprintf("%s: %d bytes", s, f.Count)
		}
	}
	if f.Detail != "" {
		s += ": " + f.Detail
	}
	return s
}

// Place names the structure that f speaks of: "archive", "header", "extent 3"
// or "extent 3 slot 5".
func (f Finding) Place() string {
	switch {
	case f.Code >= CodeTrailing, f.Code == CodeMissing, f.Code == CodeVMStateMissing:
		return "archive"
	case f.Extent < 0:
		return "header"
	case f.Slot < 0:
		return fmt.Sprintf("extent %d", f.Extent)
	}
	return fmt.Sprintf("extent %d slot %d", f.Extent, f.Slot)
}

// Unwrap returns the error of the standard library that f stands for, nil for
// most.
func (f Finding) Unwrap() error {
	switch f.Code {
	case CodeHeaderMagic:
		return ErrFormat
	case CodeHeaderVersion:
		return errors.ErrUnsupported
	case CodeTruncated:
		return io.ErrUnexpectedEOF
	}
	return nil
}

// formatError returns f as the error that ends a reading.
func (f Finding) formatError() *FormatError {
	return &FormatError{Offset: f.Offset, Field: f.Place(), Err: f}
}

// stops reports whether a reader that does not salvage ends at f. Beyond
// Proxmox's limits the content is still well defined.
func (f Finding) stops() bool { return f.Severity == Error && f.Code != CodeReference }
