package migschema

// The layout of a classic stream, all integers big endian:
//
//	QEVM, version 3
//	07 configuration          machine name, then subsections 05
//	01 START, 04 FULL         id, name, instance, version, body, footer
//	02 PART, 03 END           id, body, footer
//	08 COMMAND                number, length, data
//	00 EOF
//	06 VMDESC                 length, JSON
//
// A footer is 7e and the id of the section. Machine types before QEMU 2.4
// have neither footers nor a configuration, those before 2.2 no VMDESC.
const (
	classicMagic   = "QEVM"
	classicVersion = 3

	recEOF           = 0x00
	recStart         = 0x01
	recPart          = 0x02
	recEnd           = 0x03
	recFull          = 0x04
	recSubsection    = 0x05
	recVMDesc        = 0x06
	recConfiguration = 0x07
	recCommand       = 0x08
	recFooter        = 0x7e

	footerSize = 1 + 4
)

// ramSection is the name of the section that carries RAM.
const ramSection = "ram"

// The flags in the low bits of a page's address.
const (
	flagZero       = 0x02
	flagMemSize    = 0x04
	flagPage       = 0x08
	flagEOS        = 0x10
	flagContinue   = 0x20
	flagXBZRLE     = 0x40
	flagHook       = 0x80
	flagCompressed = 0x100
	flagFlush      = 0x200
)

// xbzrleEncoding is the octet that says how an XBZRLE page is encoded.
const xbzrleEncoding = 1

// A RecordKind says what a [Reader] found.
type RecordKind uint8

const (
	// RecordHeader begins the stream: Version.
	RecordHeader RecordKind = iota
	// RecordConfiguration names the machine: Config, Data. Where there is one,
	// it follows the header.
	RecordConfiguration
	// RecordStart opens a section that comes in parts: Name, ID, Instance,
	// Version.
	RecordStart
	// RecordPart continues a section: ID; Name of the section.
	RecordPart
	// RecordEnd is the last part of a section: ID; Name of the section.
	RecordEnd
	// RecordFull opens a section that is whole, a device: Name, ID, Instance,
	// Version.
	RecordFull
	// RecordRAMList announces the blocks of RAM: Total, Blocks.
	RecordRAMList
	// RecordPage is one page: Page, Named.
	RecordPage
	// RecordRAMEnd ends the RAM of a section.
	RecordRAMEnd
	// RecordState is the body of a section that is no RAM: Data, Split.
	RecordState
	// RecordFooter ends a section: ID. Old machine types have none.
	RecordFooter
	// RecordCommand is an order to the receiver: Command, Data.
	RecordCommand
	// RecordTail is the rest of a stream whose sections cannot be told apart,
	// up to the octet of RecordEOF: Data.
	RecordTail
	// RecordEOF ends the sections.
	RecordEOF
	// RecordVMDesc describes the device state: Data, JSON for [ParseVMDesc].
	RecordVMDesc
)

// String returns the name of k, such as start or page.
func (k RecordKind) String() string {
	names := [...]string{
		"header", "configuration", "start", "part", "end", "full", "ram list", "page", "ram end", "state", "footer",
		"command", "tail", "eof", "vmdesc",
	}
	if int(k) < len(names) {
		return names[k]
	}
	return "unknown"
}

// A Split says how the end of a device's state was found. The stream does not
// tell it.
type Split uint8

const (
	// SplitVMDesc is exact: the VMDESC tells the size.
	SplitVMDesc Split = iota
	// SplitFooter is where a footer of the section is followed by a chain of
	// sound sections up to the end of the stream.
	SplitFooter
	// SplitGuess is where something like the header of another section begins
	// such a chain.
	SplitGuess
)

// String returns vmdesc, footer or guess.
func (s Split) String() string { return [...]string{"vmdesc", "footer", "guess"}[s%3] }

// A Record is one part of a classic stream. Which fields hold something
// depends on Kind; the others are left as they were.
type Record struct {
	Kind   RecordKind
	Offset int64 // in the stream, of the first octet

	ID, Instance, Version uint32
	Name                  string

	Config  *Configuration
	Total   uint64     // bytes
	Blocks  []RAMBlock // valid until the next list
	Page    Page       // its Data is valid until the next call
	Named   bool       // the page names its block though the page before was of the same
	Command uint16
	Data    []byte // valid until the next call
	Split   Split
}

// A Configuration says what machine a stream is of.
type Configuration struct {
	Machine        string // type, such as pc-i440fx-7.2
	Capabilities   []string
	TargetPageBits uint32 // 0 if not told
	UUID           [16]byte
	HasUUID        bool
}

// Commands that QEMU sends to a file as well.
const (
	CommandOpenReturnPath = 1
	CommandPing           = 2
	CommandPostcopyAdvise = 3
)
