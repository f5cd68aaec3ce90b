package migschema

import (
	"fmt"
	"io"
	"math"
)

// Unmarshal decodes the BER value in data, all of it, into v: a pointer to
// one of the types of the schema, among them the interfaces [Section],
// [RAMPage] and [Entry]. Nothing in v refers to data afterwards.
//
// Options nil is strict; see [DecoderOptions]. NoReadAhead has no effect.
// Errors are [*FormatError], with the path beginning at the type of v.
func Unmarshal(data []byte, v any, o *DecoderOptions) error {
	root := rootOf(v)
	if root == nil {
		return fmt.Errorf("migschema: cannot decode into a %T", v)
	}
	opt := o.withDefaults()
	opt.NoReadAhead = false
	var w walker
	w.init(bytesSource(data), root, &opt)
	set := w.into(v)
	if w.err == nil {
		w.next()
	}
	if w.err != io.EOF {
		return w.err
	}
	set()
	return nil
}

// rootOf returns the type of the schema that v points to.
func rootOf(v any) *node {
	switch v.(type) {
	case *QemuFile:
		return nodeQemuFile
	case *Section:
		return nodeSections
	case *SecFull:
		return nodeSecFull
	case *SecMin:
		return nodeSecMin
	case *RAMBlockList:
		return nodeRAMBlockList
	case *RAMBlockID:
		return nodeRAMBlockID
	case *RAMSecBlock:
		return nodeRAMSecBlock
	case *RAMPage:
		return nodeRAMPage
	case *FullPage:
		return nodeFullPage
	case *XBZRLEPage:
		return nodeXBZRLEPage
	case *VMState:
		return nodeVMState
	case *Entry:
		return nodeEntry
	case *SubSecList:
		return nodeSubSecList
	case *SubSection:
		return nodeSubSection
	case *Int:
		return nodeSectionID
	case *QemuString:
		return nodeString
	case *SecEndMark:
		return nodeSecEndMark
	}
	return nil
}

// into decodes the root and returns what stores it in v.
func (w *walker) into(v any) (set func()) {
	w.next()
	switch v := v.(type) {
	case *QemuFile:
		return store(v, w.file)
	case *Section:
		return store(v, w.section)
	case *SecFull:
		return storeAt(v, w.secFull)
	case *SecMin:
		return storeAt(v, w.secMin)
	case *RAMBlockList:
		return storeAt(v, w.blockList)
	case *RAMBlockID:
		return store(v, w.blockID)
	case *RAMSecBlock:
		return store(v, w.secBlock)
	case *RAMPage:
		return store(v, w.ramPage)
	case *FullPage:
		return storeAt(v, w.fullPage)
	case *XBZRLEPage:
		return storeAt(v, w.xbzrlePage)
	case *VMState:
		return store(v, func() VMState { return w.entries() })
	case *Entry:
		return store(v, w.entry)
	case *SubSecList:
		return store(v, w.subSections)
	case *SubSection:
		return store(v, w.subSection)
	case *Int:
		return store(v, func() Int { return w.num })
	case *QemuString:
		return store(v, func() QemuString { return QemuString(w.data) })
	}
	return func() {}
}

func store[T any](v *T, decode func() T) func() {
	got := decode()
	return func() { *v = got }
}

func storeAt[T any](v *T, decode func() *T) func() {
	got := decode()
	return func() { *v = *got }
}

// Each of the following is called with the element found that it decodes, and
// returns with the last element of it found. The walker lets only what the
// schema says through, so that they need not look; after an error what they
// return is of no meaning.

func (w *walker) file() (f QemuFile) {
	f.Version = w.nextInt()
	w.next() // top
	f.Top = list(w, w.section)
	w.next()
	return f
}

// list decodes the elements of an open list.
func list[T any](w *walker, decode func() T) (l []T) {
	for w.next() == nil && w.event != ElementEnd {
		l = append(l, decode())
	}
	return l
}

func (w *walker) nextInt() Int {
	w.next()
	return w.num
}

func (w *walker) nextString() string {
	w.next()
	return string(w.data)
}

func (w *walker) section() Section {
	if w.node == nodeSecFull {
		return w.secFull()
	}
	return w.secMin()
}

func (w *walker) secFull() *SecFull {
	f := &SecFull{Name: w.nextString(), SectionID: w.nextInt(), InstanceID: w.nextInt(), VersionID: w.nextInt()}
	w.next()
	switch w.node {
	case nodeRAMBlockList:
		f.Contents = w.blockList()
	case nodeStateList:
		f.Contents = VMState(w.entries())
	case nodeOldBlob:
		f.Contents = w.blob()
	}
	w.next() // secendmark
	w.next()
	return f
}

func (w *walker) secMin() *SecMin {
	m := &SecMin{SectionID: w.nextInt()}
	w.next() // ramsec
	m.RAMSec = list(w, w.secBlock)
	w.next() // secendmark
	w.next()
	return m
}

func (w *walker) blockList() *RAMBlockList {
	l := &RAMBlockList{TotalRAM: w.nextInt()}
	w.next() // blocks
	for w.next() == nil && w.event != ElementEnd {
		if len(l.Blocks) == w.opt.MaxBlocks {
			w.err = w.fail(CodeLimit, w.at)
			break
		}
		l.Blocks = append(l.Blocks, w.blockID())
	}
	w.next()
	return l
}

func (w *walker) blockID() RAMBlockID {
	b := RAMBlockID{Name: w.nextString(), Len: w.nextInt()}
	w.next()
	return b
}

func (w *walker) secBlock() RAMSecBlock {
	b := RAMSecBlock{Name: w.nextString()}
	w.next() // pagelist
	b.PageList = list(w, w.ramPage)
	w.next()
	return b
}

func (w *walker) ramPage() RAMPage {
	switch w.node {
	case nodeCompr:
		return Compr{w.num}
	case nodeFullPage:
		return w.fullPage()
	case nodeXBZRLEPage:
		return w.xbzrlePage()
	}
	return Hook{}
}

func (w *walker) fullPage() *FullPage {
	p := &FullPage{Addr: w.nextInt(), Data: w.nextBytes()}
	w.next()
	return p
}

func (w *walker) xbzrlePage() *XBZRLEPage {
	p := &XBZRLEPage{Addr: w.nextInt(), Data: w.nextBytes()}
	w.next()
	return p
}

func (w *walker) nextBytes() []byte {
	w.next()
	return append([]byte{}, w.data...)
}

func (w *walker) entries() []Entry { return list(w, w.entry) }

// What an entry and a subsection of typed state take in memory besides their
// octets, in bytes: the place in a list, and the value that is there.
const (
	entryCost      = 64
	subSectionCost = 128
)

func (w *walker) entry() Entry {
	w.valueEnd -= entryCost
	w.bounded()
	switch w.node {
	case nodeArray:
		return Array(w.entries())
	case nodeBoolean:
		return Bool(w.flag)
	case nodeInteger:
		return w.num
	case nodeSubSecList:
		return w.subSections()
	}
	return w.blob()
}

// blob joins the pieces of a string without a bound.
func (w *walker) blob() OldBlob {
	b := append(OldBlob{}, w.data...)
	for w.more && w.next() == nil {
		if int64(len(b))+int64(len(w.data)) > math.MaxInt32 {
			w.err = w.fail(CodeLimit, w.at)
			break
		}
		b = append(b, w.data...)
		w.bounded()
	}
	return b
}

// bounded keeps an error if the value has got too long.
func (w *walker) bounded() {
	if w.err == nil && w.src.offset() > w.valueEnd {
		w.err = w.fail(CodeLimit, w.at)
	}
}

func (w *walker) subSections() SubSecList { return list(w, w.subSection) }

func (w *walker) subSection() SubSection {
	w.valueEnd -= subSectionCost
	w.bounded()
	s := SubSection{Name: w.nextString(), VersionID: w.nextInt()}
	w.next() // contents
	s.Contents = w.entries()
	w.next()
	return s
}
