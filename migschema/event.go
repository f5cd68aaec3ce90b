package migschema

// An EventKind says what a [Decoder] found.
type EventKind uint8

const (
	// EventFile begins the file: Version.
	EventFile EventKind = iota
	// EventFull begins a SecFull: Name, SectionID, InstanceID, VersionID.
	EventFull
	// EventMin begins a SecMin: SectionID.
	EventMin
	// EventRAMList is the whole RAM block list: TotalRAM, Blocks.
	EventRAMList
	// EventBlock begins the pages of a block: Name.
	EventBlock
	// EventPage is one page: Page.
	EventPage
	// EventBlockEnd ends the pages of a block.
	EventBlockEnd
	// EventState begins the typed state of a device.
	EventState
	// EventArray begins an array among the state.
	EventArray
	// EventBool is a truth value: Bool.
	EventBool
	// EventInt is a number: Int.
	EventInt
	// EventBlob is an OCTET STRING or a piece of it, as contents of a section
	// or among the state: Data, Size, More.
	EventBlob
	// EventSubSecList begins a list of subsections.
	EventSubSecList
	// EventSubSection begins a subsection: Name, VersionID.
	EventSubSection
	// EventEnd ends what EventState, EventArray, EventSubSecList or
	// EventSubSection began.
	EventEnd
	// EventSectionEnd ends a SecFull or a SecMin; its end mark was there.
	EventSectionEnd
	// EventFileEnd ends the file.
	EventFileEnd
)

// String returns the name of k, such as page or section end.
func (k EventKind) String() string {
	names := [...]string{
		"file", "full", "min", "ram list", "block", "page", "block end", "state", "array", "bool", "int", "blob",
		"subsection list", "subsection", "end", "section end", "file end",
	}
	if int(k) < len(names) {
		return names[k]
	}
	return "unknown"
}

// An Event is one part of a stream. Which fields hold something depends on
// Kind; the others are left as they were.
type Event struct {
	Kind   EventKind
	Offset int64 // in the stream, of the first octet; of an end, past the last

	Version    Int
	Name       string
	SectionID  int64
	InstanceID int64
	VersionID  int64

	TotalRAM uint64     // bytes
	Blocks   []RAMBlock // valid until the next list
	Page     Page       // its Data is valid until the next call

	Bool bool
	Int  Int
	Data []byte // valid until the next call
	Size int64  // of all pieces of Data together, -1 where that is not told beforehand
	More bool   // another piece follows
}
