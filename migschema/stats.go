package migschema

import "io"

// Stats is what a stream is made of.
type Stats struct {
	Format   Format
	Octets   int64         // of the stream
	Machine  string        // type, where a configuration tells it
	RAMParts int           // sections that carry pages
	Blocks   []BlockStats  // in the order of the list
	Devices  []DeviceStats // in the order of the stream
	Commands int
	VMDesc   int64 // octets of the description
}

// BlockStats counts the pages of a block.
type BlockStats struct {
	RAMBlock
	Zero, Full, XBZRLE, Compressed int64 // pages by how they were sent
	Octets                         int64 // of page data
	Distinct                       int64 // pages; the others were sent again
}

// Pages returns how many pages were sent.
func (b *BlockStats) Pages() int64 { return b.Zero + b.Full + b.XBZRLE + b.Compressed }

// DeviceStats tells of a section that is no RAM.
type DeviceStats struct {
	Name     string
	ID       int64
	Instance int64
	Version  int64
	Octets   int64 // of the stream, its head and end included
	Split    Split // of a classic stream: how its end was found
}

// ReadStats reads a stream of either format and counts what it is made of.
// With an error it returns what had been counted until then.
func ReadStats(src io.Reader, o *StreamOptions) (*Stats, error) {
	c := counter{stats: new(Stats), index: make(map[string]int)}
	if o != nil {
		c.pageSize = uint64(o.PageSize)
	}
	if c.pageSize == 0 {
		c.pageSize = PageSize
	}
	format, err := visit(src, o, c.event, c.record)
	c.stats.Format = format
	c.endDevice(c.stats.Octets)
	for i := range c.stats.Blocks {
		c.stats.Blocks[i].Distinct = c.sent[i].n
	}
	return c.stats, err
}

type counter struct {
	stats    *Stats
	pageSize uint64
	index    map[string]int // of a block
	sent     []pageSet
	last     int   // index of the block of the last page
	start    int64 // of the device at hand
	device   bool  // there is one
	desc     bool  // the section at hand is the description
}

func (c *counter) event(ev *Event) error {
	switch ev.Kind {
	case EventFull:
		c.start = ev.Offset
		switch ev.SectionID {
		case escapeCommand:
			c.stats.Commands++
		case escapeVMDesc:
			c.desc = true
		default:
			if ev.SectionID >= 0 {
				c.open(DeviceStats{Name: ev.Name, ID: ev.SectionID, Instance: ev.InstanceID, Version: ev.VersionID}, ev.Offset)
			}
		}
	case EventMin:
		c.stats.RAMParts++
	case EventRAMList:
		if c.device {
			c.device = false
			c.stats.Devices = c.stats.Devices[:len(c.stats.Devices)-1]
		}
		c.list(ev.Blocks)
	case EventPage:
		c.page(&ev.Page)
	case EventBlob:
		if c.desc {
			c.stats.VMDesc += int64(len(ev.Data))
		}
	case EventSectionEnd:
		c.endDevice(ev.Offset)
		c.desc = false
	case EventFileEnd:
		c.stats.Octets = ev.Offset
	}
	return nil
}

func (c *counter) record(rec *Record) error {
	switch rec.Kind {
	case RecordFooter, RecordRAMList, RecordPage, RecordRAMEnd, RecordState, RecordTail, RecordVMDesc:
	default:
		c.endDevice(rec.Offset)
	}
	switch rec.Kind {
	case RecordConfiguration:
		c.stats.Machine = rec.Config.Machine
		if b := rec.Config.TargetPageBits; b != 0 {
			c.pageSize = 1 << b
		}
	case RecordStart, RecordFull:
		if rec.Kind == RecordFull || rec.Name != ramSection {
			c.open(DeviceStats{Name: rec.Name, ID: int64(rec.ID), Instance: int64(rec.Instance), Version: int64(rec.Version)}, rec.Offset)
		}
	case RecordPart, RecordEnd:
		if rec.Name == ramSection {
			c.stats.RAMParts++
		} else {
			c.open(DeviceStats{Name: rec.Name, ID: int64(rec.ID), Instance: int64(rec.Instance)}, rec.Offset)
		}
	case RecordRAMList:
		c.list(rec.Blocks)
	case RecordPage:
		c.page(&rec.Page)
	case RecordState:
		c.stats.Devices[len(c.stats.Devices)-1].Split = rec.Split
	case RecordCommand:
		c.stats.Commands++
	case RecordEOF:
		c.stats.Octets = rec.Offset + 1
	case RecordVMDesc:
		c.stats.VMDesc = int64(len(rec.Data))
		c.stats.Octets = rec.Offset + 1 + 4 + c.stats.VMDesc
	}
	return nil
}

func (c *counter) open(d DeviceStats, at int64) {
	c.stats.Devices = append(c.stats.Devices, d)
	c.start, c.device = at, true
}

// endDevice notes that the device at hand ends at offset at.
func (c *counter) endDevice(at int64) {
	if c.device {
		c.stats.Devices[len(c.stats.Devices)-1].Octets = at - c.start
	}
	c.device = false
}

func (c *counter) list(blocks []RAMBlock) {
	c.stats.Blocks = nil
	clear(c.index)
	for i, b := range blocks {
		c.index[b.Name] = i
		c.stats.Blocks = append(c.stats.Blocks, BlockStats{RAMBlock: b})
	}
	c.sent = make([]pageSet, len(blocks))
	c.last = 0
}

func (c *counter) page(p *Page) {
	if p.Kind == PageHook || p.Kind == PageFlush {
		return
	}
	if c.stats.Blocks[c.last].Name != p.Block {
		c.last = c.index[p.Block]
	}
	b := &c.stats.Blocks[c.last]
	switch p.Kind {
	case PageZero:
		b.Zero++
	case PageFull:
		b.Full++
	case PageXBZRLE:
		b.XBZRLE++
	case PageCompressed:
		b.Compressed++
	}
	b.Octets += int64(len(p.Data))
	c.sent[c.last].set(p.Addr/c.pageSize, true)
}
