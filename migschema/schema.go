package migschema

// A QemuFile is a whole migration stream.
type QemuFile struct {
	Version Int       // 3
	Top     []Section // in the order of the stream
}

// A Section is one arm of the schema's Sections: a [*SecFull] or a [*SecMin].
type Section interface{ isSection() }

// A SecFull opens a section: the RAM block list, or the state of one device.
type SecFull struct {
	Name       string // of the device, 1 to 255 characters
	SectionID  Int    // unique in the stream
	InstanceID Int    // tells devices of one name apart
	VersionID  Int    // of the layout of the contents
	Contents   FullContents
}

// FullContents is what a [SecFull] holds: a [*RAMBlockList], a [VMState] or
// an [OldBlob].
type FullContents interface{ isFullContents() }

// A SecMin continues a section that a [SecFull] opened, with pages of RAM.
type SecMin struct {
	SectionID Int           // of the section that is continued
	RAMSec    []RAMSecBlock // the ramsec arm of contents, the only one
}

// A RAMBlockList announces the blocks of RAM that pages will be sent for.
type RAMBlockList struct {
	TotalRAM Int // bytes, the sum of the blocks' lengths
	Blocks   []RAMBlockID
}

// A RAMBlockID names one block of RAM.
type RAMBlockID struct {
	Name string // such as pc.ram, 1 to 255 characters
	Len  Int    // bytes
}

// A RAMSecBlock holds pages of one block of RAM.
type RAMSecBlock struct {
	Name     string // of the block, 1 to 255 characters
	PageList []RAMPage
}

// A RAMPage is one way to send a page: [Compr], [*FullPage], [*XBZRLEPage] or
// [Hook].
type RAMPage interface{ isRAMPage() }

// Compr is a page of zeros.
type Compr struct {
	Addr Int // bytes from the start of the block
}

// A FullPage is a page as it is.
type FullPage struct {
	Addr Int    // bytes from the start of the block
	Data []byte // 4096 bytes
}

// An XBZRLEPage is a page as its difference to what was sent before. See
// [DecodeXBZRLE].
type XBZRLEPage struct {
	Addr Int // bytes from the start of the block
	Data []byte
}

// Hook marks that the transport has its own word on the next page.
type Hook struct{}

// A VMState is the typed state of a device: the vmstateentries arm of the
// schema's VMState, the only one.
type VMState []Entry

// An Entry is one of the schema's VMStateEntries: [Array], [Bool], [Int],
// [OldBlob] or [SubSecList].
type Entry interface{ isEntry() }

// An Array groups entries.
type Array []Entry

// A Bool is a truth value.
type Bool bool

// An OldBlob is state whose structure the stream does not tell.
type OldBlob []byte

// A SubSecList is a list of optional parts of a device's state.
type SubSecList []SubSection

// A SubSection is an optional part of a device's state.
type SubSection struct {
	Name      string // 1 to 255 characters
	VersionID Int
	Contents  []Entry
}

// A SecEndMark ends every section, so that a stream whose tail is zeros does
// not look like one that ends there. The types of this package imply it; as
// a value of its own it is for [Marshal] and [Unmarshal].
type SecEndMark struct{}

// A QemuString is a name of 1 to 255 characters. The types of this package
// hold it as string; as a value of its own it is for [Marshal] and
// [Unmarshal].
type QemuString string

func (*SecFull) isSection() {}
func (*SecMin) isSection()  {}

func (*RAMBlockList) isFullContents() {}
func (VMState) isFullContents()       {}
func (OldBlob) isFullContents()       {}

func (Compr) isRAMPage()       {}
func (*FullPage) isRAMPage()   {}
func (*XBZRLEPage) isRAMPage() {}
func (Hook) isRAMPage()        {}

func (Array) isEntry()      {}
func (Bool) isEntry()       {}
func (Int) isEntry()        {}
func (OldBlob) isEntry()    {}
func (SubSecList) isEntry() {}
