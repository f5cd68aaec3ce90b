package migschema

// A kind is what X.680 makes a type of.
type kind uint8

const (
	kindSequence kind = iota // SEQUENCE: components in order
	kindList                 // SEQUENCE OF
	kindChoice               // CHOICE: has no element of its own
	kindInteger
	kindBoolean
	kindOctets
	kindUTF8
	kindNull
	kindSegments // the inside of a constructed string
)

// A node is one type of the schema. The scanner, and so every decoder, walks
// these nodes.
type node struct {
	name  string // as the schema calls the type
	kind  kind
	tag   Tag     // not of a CHOICE
	parts []field // components of a SEQUENCE, arms of a CHOICE
	elem  *node   // of a SEQUENCE OF
	paged bool    // an OCTET STRING of one page
	long  bool    // an OCTET STRING without a bound, handed out in pieces
}

// A field is a component of a SEQUENCE or an arm of a CHOICE.
type field struct {
	name string // empty where paths leave it out
	node *node
}

// arm returns the arm of a CHOICE that has tag t.
func (n *node) arm(t Tag) *field {
	for i := range n.parts {
		if n.parts[i].node.tag == t {
			return &n.parts[i]
		}
	}
	return nil
}

// constructed reports whether an element of type n holds elements.
func (n *node) constructed() bool { return n.kind == kindSequence || n.kind == kindList }

// isString reports whether n may be split in segments.
func (n *node) isString() bool { return n.kind == kindOctets || n.kind == kindUTF8 }

// The types without parts.
var (
	nodeInteger    = &node{name: "INTEGER", kind: kindInteger, tag: tagInteger}
	nodeBoolean    = &node{name: "BOOLEAN", kind: kindBoolean, tag: tagBoolean}
	nodeString     = &node{name: "QemuString", kind: kindUTF8, tag: tagUTF8}
	nodePageData   = &node{name: "OCTET STRING", kind: kindOctets, tag: tagOctets, paged: true}
	nodeXBZRLEData = &node{name: "OCTET STRING", kind: kindOctets, tag: tagOctets}
	nodeOldBlob    = &node{name: "OCTET STRING", kind: kindOctets, tag: tagOctets, long: true}
	nodeSectionID  = &node{name: "SectionID", kind: kindInteger, tag: tagInteger}
	nodeVersion    = &node{name: "INTEGER", kind: kindInteger, tag: tagInteger}
	nodeSecEndMark = &node{name: "SecEndMark", kind: kindNull, tag: tagSecEndMark}
	nodeCompr      = &node{name: "INTEGER", kind: kindInteger, tag: tagCompr}
	nodeHook       = &node{name: "NULL", kind: kindNull, tag: tagHook}
	nodeSegments   = &node{name: "segments", kind: kindSegments}
)

// The types of RAM.
var (
	nodeRAMBlockID = &node{name: "RAMBlockID", kind: kindSequence, tag: tagSequence, parts: []field{
		{"name", nodeString},
		{"len", nodeInteger},
	}}
	nodeRAMBlockIDs  = &node{name: "SEQUENCE OF RAMBlockID", kind: kindList, tag: tagSequence, elem: nodeRAMBlockID}
	nodeRAMBlockList = &node{name: "RAMBlockList", kind: kindSequence, tag: tagRAMBlockList, parts: []field{
		{"totalram", nodeInteger},
		{"blocks", nodeRAMBlockIDs},
	}}
	nodeFullPage = &node{name: "FullPage", kind: kindSequence, tag: tagFullPage, parts: []field{
		{"addr", nodeInteger},
		{"data", nodePageData},
	}}
	nodeXBZRLEPage = &node{name: "XBZRLEPage", kind: kindSequence, tag: tagXBZRLEPage, parts: []field{
		{"addr", nodeInteger},
		{"data", nodeXBZRLEData},
	}}
	nodeRAMPage = &node{name: "RAMPage", kind: kindChoice, parts: []field{
		{"compr", nodeCompr},
		{"fullpage", nodeFullPage},
		{"xbzrle", nodeXBZRLEPage},
		{"hook", nodeHook},
	}}
	nodePageList    = &node{name: "SEQUENCE OF RAMPage", kind: kindList, tag: tagSequence, elem: nodeRAMPage}
	nodeRAMSecBlock = &node{name: "RAMSecBlock", kind: kindSequence, tag: tagSequence, parts: []field{
		{"name", nodeString},
		{"pagelist", nodePageList},
	}}
	nodeRAMSec = &node{name: "SEQUENCE OF RAMSecBlock", kind: kindList, tag: tagRAMSec, elem: nodeRAMSecBlock}
)

// The types of device state, which hold one another.
var nodeEntry, nodeEntries, nodeArray, nodeSubSecList, nodeSubSection = stateNodes()

func stateNodes() (entry, entries, array, list, sub *node) {
	entry = &node{name: "VMStateEntries", kind: kindChoice}
	entries = &node{name: "SEQUENCE OF VMStateEntries", kind: kindList, tag: tagSequence, elem: entry}
	array = &node{name: "SEQUENCE OF VMStateEntries", kind: kindList, tag: tagSequence, elem: entry}
	sub = &node{name: "SubSection", kind: kindSequence, tag: tagSubSection, parts: []field{
		{"name", nodeString},
		{"versionid", nodeInteger},
		{"contents", entries},
	}}
	list = &node{name: "SubSecList", kind: kindList, tag: tagSubSecList, elem: sub}
	entry.parts = []field{
		{"array", array},
		{"bool", nodeBoolean},
		{"int", nodeInteger},
		{"oldblob", nodeOldBlob},
		{"subsecl", list},
	}
	return entry, entries, array, list, sub
}

// The types of sections and of the file.
var (
	nodeStateList = &node{name: "SEQUENCE OF VMStateEntries", kind: kindList, tag: tagSequence, elem: nodeEntry}
	nodeVMState   = &node{name: "VMState", kind: kindChoice, parts: []field{{"", nodeStateList}}}

	nodeSecFull = &node{name: "SecFull", kind: kindSequence, tag: tagSecFull, parts: []field{
		{"name", nodeString},
		{"sectionid", nodeSectionID},
		{"instanceid", nodeInteger},
		{"versionid", nodeInteger},
		{"contents", &node{kind: kindChoice, parts: []field{
			{"ramblid", nodeRAMBlockList},
			{"vmstate", nodeStateList},
			{"oldblob", nodeOldBlob},
		}}},
		{"secendmark", nodeSecEndMark},
	}}
	nodeSecMin = &node{name: "SecMin", kind: kindSequence, tag: tagSecMin, parts: []field{
		{"sectionid", nodeSectionID},
		{"contents", &node{kind: kindChoice, parts: []field{{"ramsec", nodeRAMSec}}}},
		{"secendmark", nodeSecEndMark},
	}}
	nodeSections = &node{name: "Sections", kind: kindChoice, parts: []field{
		{"full", nodeSecFull},
		{"min", nodeSecMin},
	}}
	nodeTop      = &node{name: "SEQUENCE OF Sections", kind: kindList, tag: tagSequence, elem: nodeSections}
	nodeQemuFile = &node{name: "QemuFile", kind: kindSequence, tag: tagQemuFile, parts: []field{
		{"version", nodeVersion},
		{"top", nodeTop},
	}}
)
