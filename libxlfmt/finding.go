package libxlfmt

import (
	"errors"
	"fmt"
	"io"
)

// A Profile says which deviations are errors.
type Profile uint8

const (
	// Strict holds a stream to the specification: every reserved field zero,
	// every order and size rule kept. Both byte orders pass, and so do
	// optional records.
	Strict Profile = iota
	// Xen accepts and refuses what Xen's own reader does (4.17): no big-endian
	// streams and no optional libxl records, but reserved option bits, padding
	// and emulator ids of any content.
	Xen
	// Lenient accepts whatever has one clear reading.
	Lenient
)

var profileNames = [...]string{"strict", "xen", "lenient"}

// String returns strict, xen or lenient.
func (p Profile) String() string {
	if int(p) < len(profileNames) {
		return profileNames[p]
	}
	return fmt.Sprintf("profile(%d)", uint8(p))
}

// ParseProfile returns the profile of that name: strict, xen or lenient.
func ParseProfile(name string) (Profile, error) {
	for i, n := range profileNames {
		if n == name {
			return Profile(i), nil
		}
	}
	return 0, fmt.Errorf("libxlfmt: no profile %q: strict, xen or lenient", name)
}

// A Code names the rule that a finding breaks. Codes are stable.
type Code string

// What can be found in a stream. Each code is followed by the profiles that
// refuse it: S for [Strict], X for [Xen], L for [Lenient]. Those marked with an
// exclamation mark end the reading under any profile, because what follows has
// no meaning any more.
const (
	CodeTruncated Code = "truncated"     // SXL! the stream ends inside a header or a record
	CodeIdent     Code = "ident"         // SXL! none of the known forms begins like this
	CodeLegacy    Code = "legacy-stream" // SXL! a stream of Xen 4.5 or older in a container

	CodeXLByteOrder     Code = "xl-byte-order"     // SXL! xl save: the byte order field
	CodeXLFlags         Code = "xl-flags"          // SXL! xl save: unknown mandatory flags
	CodeXLOptionalFlags Code = "xl-optional-flags" // S    xl save: unknown optional flags
	CodeXLConfig        Code = "xl-config"         // SXL! xl save: lengths of the configuration
	CodeLibvirtHeader   Code = "libvirt-header"    // SXL! libvirt: version or length
	CodeLibvirtReserved Code = "libvirt-reserved"  // S    libvirt: reserved bytes
	CodeSectionType     Code = "section-type"      // S    xenopsd: unknown section
	CodeSectionLength   Code = "section-length"    // S    xenopsd: a section that wraps a stream has a length

	CodeVersion     Code = "version"          // SXL! libxl header
	CodeOptions     Code = "reserved-options" // S    libxl header: bits 2 to 31
	CodeBigEndian   Code = "big-endian"       //  X   libxl or libxc header
	CodeMarker      Code = "libxc-marker"     // SXL! libxc image header: the eight bytes ff
	CodeLibxcIdent  Code = "libxc-ident"      // SXL! libxc image header: XENF
	CodeLibxcVer    Code = "libxc-version"    // SXL! libxc image header: neither 2 nor 3
	CodeLibxcFields Code = "libxc-reserved"   // S    libxc headers: reserved fields and options
	CodeDomainType  Code = "domain-type"      // SXL! libxc domain header: neither PV nor HVM
	CodePageShift   Code = "page-shift"       // SXL! libxc domain header: not 12

	CodePadding          Code = "padding"                  // S    padding that is not zero
	CodeTooLong          Code = "record-too-long"          // SXL! 128 MiB in libxc, [Options.MaxRecord] elsewhere
	CodeUnknownRecord    Code = "unknown-record"           // SXL  a mandatory record of unknown type
	CodeOptionalRecord   Code = "optional-record"          //  X   an optional record in the libxl layer
	CodeNotAllowed       Code = "record-not-allowed"       // SXL  a record that no forward stream holds
	CodeUnexpectedBody   Code = "unexpected-body"          // S L  a body where the record is only a mark
	CodeSecondContext    Code = "second-context"           // S    a second LIBXC_CONTEXT
	CodeOutOfCheckpoint  Code = "checkpoint-end-outside"   // SXL  CHECKPOINT_END outside a checkpoint
	CodeStateOutside     Code = "checkpoint-state-outside" // SXL  CHECKPOINT_STATE outside COLO
	CodeInCheckpoint     Code = "record-in-checkpoint"     // SXL! END or LIBXC_CONTEXT inside a checkpoint
	CodeCheckpointState  Code = "checkpoint-state"         // S    CHECKPOINT_STATE: an identifier that is not known
	CodeEmulatorShort    Code = "emulator-short"           // SXL  no room for the emulator sub-header
	CodeEmulatorID       Code = "emulator-id"              // S    a reserved emulator id
	CodeEmulatorPV       Code = "emulator-in-pv"           //  X   an emulator record in the stream of a PV domain
	CodeDraftB           Code = "draft-b"                  // S    XENSTORE_DATA as in Draft B
	CodeXenstoreUnended  Code = "xenstore-unterminated"    // SXL  a key or value without its NUL
	CodeXenstoreEmpty    Code = "xenstore-empty-key"       // SXL
	CodeXenstoreAbsolute Code = "xenstore-absolute-key"    // SXL
	CodeXenstoreChars    Code = "xenstore-key-characters"  // S

	CodeWrongDomain    Code = "wrong-domain-type"  // SX   a PV record in an HVM stream, or the other way round
	CodeNoStaticEnd    Code = "no-static-data-end" // SX   memory before STATIC_DATA_END in version 3
	CodeStaticEndV2    Code = "static-end-in-v2"   // S L
	CodeOrder          Code = "record-order"       // S    VCPU before memory, HVM_CONTEXT before HVM_PARAMS
	CodeDuplicate      Code = "duplicate-record"   // SX   a second STATIC_DATA_END or X86_PV_INFO
	CodePageCount      Code = "page-count"         // SXL  PAGE_DATA: no pages, or more than the record holds
	CodePageSize       Code = "page-size"          // SXL  PAGE_DATA: length differs from what its entries need
	CodePageType       Code = "page-type"          // SXL  PAGE_DATA: types 5 to 8
	CodePageReserved   Code = "page-reserved"      // S    PAGE_DATA: the reserved field, bits 52 to 59 of an entry
	CodePagePFN        Code = "page-pfn"           // SX   PAGE_DATA: a pfn past the P2M of a PV domain
	CodePVInfoLength   Code = "pv-info-length"     // S L  X86_PV_INFO: not 8 bytes (less than 8: SXL)
	CodePVInfo         Code = "pv-info"            // SXL  X86_PV_INFO: width or levels that do not exist
	CodePVInfoPair     Code = "pv-info-pair"       //  X   X86_PV_INFO: width and levels of different guests
	CodePVInfoReserved Code = "pv-info-reserved"   // S
	CodePVInfoMissing  Code = "pv-info-missing"    // SXL  a record that needs X86_PV_INFO before it
	CodeP2MFrames      Code = "p2m-frames"         // SXL  X86_PV_P2M_FRAMES: range or number of frames
	CodeVCPU           Code = "vcpu-length"        // SXL  X86_PV_VCPU_*: length
	CodeVCPUReserved   Code = "vcpu-reserved"      // S
	CodeLength         Code = "length"             // SXL  a record of fixed form has another length
	CodeReserved       Code = "reserved"           // S    a reserved field of another record

	CodeTrailing Code = "trailing-bytes" // S    bytes after END
)

// A severity is which profiles refuse a finding.
type severity uint8

const (
	badStrict severity = 1 << iota
	badXen
	badLenient
	fatal // the reading cannot go on
	bad   = badStrict | badXen | badLenient
	end   = bad | fatal
)

// severities holds what the comments of the codes say.
var severities = map[Code]severity{
	CodeTruncated:        end,
	CodeIdent:            end,
	CodeLegacy:           end,
	CodeXLByteOrder:      end,
	CodeXLFlags:          end,
	CodeXLOptionalFlags:  badStrict,
	CodeXLConfig:         end,
	CodeLibvirtHeader:    end,
	CodeLibvirtReserved:  badStrict,
	CodeSectionType:      badStrict,
	CodeSectionLength:    badStrict,
	CodeVersion:          end,
	CodeOptions:          badStrict,
	CodeBigEndian:        badXen,
	CodeMarker:           end,
	CodeLibxcIdent:       end,
	CodeLibxcVer:         end,
	CodeLibxcFields:      badStrict,
	CodeDomainType:       end,
	CodePageShift:        end,
	CodePadding:          badStrict,
	CodeTooLong:          end,
	CodeUnknownRecord:    bad,
	CodeOptionalRecord:   badXen,
	CodeNotAllowed:       bad,
	CodeUnexpectedBody:   badStrict | badLenient,
	CodeSecondContext:    badStrict,
	CodeOutOfCheckpoint:  bad,
	CodeStateOutside:     bad,
	CodeInCheckpoint:     end,
	CodeCheckpointState:  badStrict,
	CodeEmulatorShort:    bad,
	CodeEmulatorID:       badStrict,
	CodeEmulatorPV:       badXen,
	CodeDraftB:           badStrict,
	CodeXenstoreUnended:  bad,
	CodeXenstoreEmpty:    bad,
	CodeXenstoreAbsolute: bad,
	CodeXenstoreChars:    badStrict,
	CodeWrongDomain:      badStrict | badXen,
	CodeNoStaticEnd:      badStrict | badXen,
	CodeStaticEndV2:      badStrict | badLenient,
	CodeOrder:            badStrict,
	CodeDuplicate:        badStrict | badXen,
	CodePageCount:        bad,
	CodePageSize:         bad,
	CodePageType:         bad,
	CodePageReserved:     badStrict,
	CodePagePFN:          badStrict | badXen,
	CodePVInfoLength:     badStrict | badLenient,
	CodePVInfo:           bad,
	CodePVInfoPair:       badXen,
	CodePVInfoReserved:   badStrict,
	CodePVInfoMissing:    bad,
	CodeP2MFrames:        bad,
	CodeVCPU:             bad,
	CodeVCPUReserved:     badStrict,
	CodeLength:           bad,
	CodeReserved:         badStrict,
	CodeTrailing:         badStrict,
}

// refuses reports whether a finding of code c is an error under p.
func (p Profile) refuses(c Code) bool { return severities[c]&(badStrict<<p) != 0 }

// A Finding is one deviation from the specification.
type Finding struct {
	Offset int64  `json:"offset"` // where, in bytes from the start of the stream
	Field  string `json:"field"`  // the header or record
	Code   Code   `json:"code"`   // the rule that is broken
	Detail string `json:"detail"` // what was found
	Bad    bool   `json:"bad"`    // the profile refuses it
}

// A judge decides which findings end the reading.
type judge struct {
	profile Profile
	tell    func(Finding) error // nil: a bad finding is an error, any other passes
	form    XenstoreForm
}

// found judges one deviation. It returns an error where the reading ends.
func (j *judge) found(c Code, off int64, field, format string, args ...any) error {
	isBad := j.profile.refuses(c)
	if j.tell == nil && (!isBad || c == CodeDraftB) {
		return nil
	}
	detail := fmt.Sprintf(format, args...)
	if j.tell != nil {
		f := Finding{Offset: off, Field: field, Code: c, Detail: detail, Bad: isBad}
		if stop := j.tell(f); stop != nil || severities[c]&fatal == 0 {
			return stop
		}
	}
	return &FormatError{Offset: off, Field: field, Code: c, Err: codeError(c, detail)}
}

// codeError gives errors of a class that callers ask for their sentinel.
func codeError(c Code, detail string) error {
	switch c {
	case CodeTruncated:
		return fmt.Errorf("%s: %w", detail, io.ErrUnexpectedEOF)
	case CodeIdent:
		return fmt.Errorf("%s: %w", detail, ErrFormat)
	case CodeLegacy, CodeBigEndian, CodeVersion, CodeLibxcVer, CodePageShift, CodeUnknownRecord, CodeOptionalRecord:
		return fmt.Errorf("%s: %w", detail, errors.ErrUnsupported)
	}
	return errors.New(detail)
}
