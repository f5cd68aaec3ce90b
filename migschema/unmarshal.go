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
	var t tree
	t.init(bytesSource(data), root, &opt)
	set := t.into(v)
	if t.err == nil {
		t.next()
	}
	if t.err != io.EOF {
		return t.err
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

// A tree builds values from what a walker finds. The walker lets only what
// the schema says through, so that the tree need not look; after an error its
// values are empty.
type tree struct{ walker }

// into decodes the root and returns what stores it in v.
func (t *tree) into(v any) (set func()) {
	t.next()
	switch v := v.(type) {
	case *QemuFile:
		return store(v, t.file)
	case *Section:
		return store(v, t.section)
	case *SecFull:
		return storeAt(v, t.secFull)
	case *SecMin:
		return storeAt(v, t.secMin)
	case *RAMBlockList:
		return storeAt(v, t.blockList)
	case *RAMBlockID:
		return store(v, t.blockID)
	case *RAMSecBlock:
		return store(v, t.secBlock)
	case *RAMPage:
		return store(v, t.page)
	case *FullPage:
		return storeAt(v, t.fullPage)
	case *XBZRLEPage:
		return storeAt(v, t.xbzrlePage)
	case *VMState:
		return store(v, func() VMState { return t.entries() })
	case *Entry:
		return store(v, t.entry)
	case *SubSecList:
		return store(v, t.subSections)
	case *SubSection:
		return store(v, t.subSection)
	case *Int:
		return store(v, func() Int { return t.num })
	case *QemuString:
		return store(v, func() QemuString { return QemuString(t.data) })
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
// returns with the last element of it found.

func (t *tree) file() (f QemuFile) {
	f.Version = t.nextInt()
	t.next() // top
	f.Top = list(t, t.section)
	t.next()
	return f
}

// list decodes the elements of an open list.
func list[T any](t *tree, decode func() T) (l []T) {
	for t.next() == nil && t.event != ElementEnd {
		l = append(l, decode())
	}
	return l
}

func (t *tree) nextInt() Int {
	t.next()
	return t.num
}

func (t *tree) nextString() string {
	t.next()
	return string(t.data)
}

func (t *tree) section() Section {
	if t.node == nodeSecFull {
		return t.secFull()
	}
	return t.secMin()
}

func (t *tree) secFull() *SecFull {
	f := &SecFull{Name: t.nextString(), SectionID: t.nextInt(), InstanceID: t.nextInt(), VersionID: t.nextInt()}
	t.next()
	switch t.node {
	case nodeRAMBlockList:
		f.Contents = t.blockList()
	case nodeStateList:
		f.Contents = VMState(t.entries())
	case nodeOldBlob:
		f.Contents = t.blob()
	}
	t.next() // secendmark
	t.next()
	return f
}

func (t *tree) secMin() *SecMin {
	m := &SecMin{SectionID: t.nextInt()}
	t.next() // ramsec
	m.RAMSec = list(t, t.secBlock)
	t.next() // secendmark
	t.next()
	return m
}

func (t *tree) blockList() *RAMBlockList {
	l := &RAMBlockList{TotalRAM: t.nextInt()}
	t.next() // blocks
	for t.next() == nil && t.event != ElementEnd {
		if len(l.Blocks) == t.opt.MaxBlocks {
			t.err = t.fail(CodeLimit, t.at)
			break
		}
		l.Blocks = append(l.Blocks, t.blockID())
	}
	t.next()
	return l
}

func (t *tree) blockID() RAMBlockID {
	b := RAMBlockID{Name: t.nextString(), Len: t.nextInt()}
	t.next()
	return b
}

func (t *tree) secBlock() RAMSecBlock {
	b := RAMSecBlock{Name: t.nextString()}
	t.next() // pagelist
	b.PageList = list(t, t.page)
	t.next()
	return b
}

func (t *tree) page() RAMPage {
	switch t.node {
	case nodeCompr:
		return Compr{t.num}
	case nodeFullPage:
		return t.fullPage()
	case nodeXBZRLEPage:
		return t.xbzrlePage()
	}
	return Hook{}
}

func (t *tree) fullPage() *FullPage {
	p := &FullPage{Addr: t.nextInt(), Data: t.nextBytes()}
	t.next()
	return p
}

func (t *tree) xbzrlePage() *XBZRLEPage {
	p := &XBZRLEPage{Addr: t.nextInt(), Data: t.nextBytes()}
	t.next()
	return p
}

func (t *tree) nextBytes() []byte {
	t.next()
	return append([]byte{}, t.data...)
}

func (t *tree) entries() []Entry { return list(t, t.entry) }

func (t *tree) entry() Entry {
	switch t.node {
	case nodeArray:
		return Array(t.entries())
	case nodeBoolean:
		return Bool(t.flag)
	case nodeInteger:
		return t.num
	case nodeSubSecList:
		return t.subSections()
	}
	return t.blob()
}

// blob joins the pieces of a string without a bound.
func (t *tree) blob() OldBlob {
	b := append(OldBlob{}, t.data...)
	for t.more && t.next() == nil {
		if int64(len(b))+int64(len(t.data)) > math.MaxInt32 {
			t.err = t.fail(CodeLimit, t.at)
			break
		}
		b = append(b, t.data...)
	}
	return b
}

func (t *tree) subSections() SubSecList { return list(t, t.subSection) }

func (t *tree) subSection() SubSection {
	s := SubSection{Name: t.nextString(), VersionID: t.nextInt()}
	t.next() // contents
	s.Contents = t.entries()
	t.next()
	return s
}
