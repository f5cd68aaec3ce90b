package vma

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// A ledger judges the clusters of an archive as they come, and keeps the
// books of which were seen.
type ledger struct {
	opt     Options
	report  *Report
	devs    [256]*deviceBook
	vmstate uint8       // its ID, 0 for none
	last    *deviceBook // of the last cluster; an empty one at first

	taken int64 // clusters of all devices

	offset, number int64 // of the extent being judged
}

// A deviceBook is what was seen of a device.
type deviceBook struct {
	DeviceReport
	known   bool   // the header names the device
	seen    bitset // clusters that were taken
	padding uint64 // empty clusters past the end that were seen, from count on
	count   int64  // Clusters of DeviceInfo
	plain   int64  // clusters below this are whole, and any reader takes them
	rounded int64  // clusters below this the reference keeps track of
	next    int64  // one above the last cluster that came
	beyond  bool   // a finding CodeReference was made
}

// bitmapWord is how many clusters the reference reader's bitmap grows by.
const bitmapWord = 64

// newLedger opens the books for an archive. Where its length is known, size
// says how much follows the header, otherwise it is -1: the set of clusters of
// a device is a slice if that many can be listed.
func newLedger(h *Header, report *Report, opt Options, size int64) *ledger {
	l := &ledger{opt: opt, report: report, last: &deviceBook{}}
	room := size / extentHeader * slotsPerExtent
	for _, d := range h.Devices {
		n := d.Clusters()
		dense := n <= room || n <= maxDenseBits
		if n <= room {
			room -= n
		}
		l.devs[d.ID] = newBook(d, true, dense)
	}
	if vm, ok := h.VMState(); ok {
		l.vmstate = vm.ID
		l.devs[vm.ID].plain = 0
	}
	return l
}

func newBook(d DeviceInfo, known, dense bool) *deviceBook {
	const wordSectors = bitmapWord * ClusterSize / 512
	b := &deviceBook{
		DeviceReport: DeviceReport{DeviceInfo: d},
		known:        known,
		seen:         newBitset(d.Clusters(), dense),
		count:        d.Clusters(),
		rounded:      (d.Size/512 + wordSectors - 1) / wordSectors * bitmapWord,
	}
	if known && d.ID <= MaxDevices {
		b.plain = d.Size / ClusterSize
	}
	return b
}

// A cluster is one that was taken: its place in the extent and what is stored
// of the device.
type cluster struct {
	slot
	index int // slot of the extent
	data  int // offset of the stored blocks in the extent
	// size is how many bytes of the device the cluster covers, 1 to
	// ClusterSize. Bits of the mask may lie past them.
	size int
}

// note records a finding about slot i.
func (l *ledger) note(i int, s slot, code Code, count int64, detail string) {
	if l.report.full(code, &l.opt) {
		return
	}
	l.report.add(Finding{
		Code:     code,
		Severity: code.severity(l.opt.Profile),
		Offset:   l.offset + offSlots + 8*int64(i),
		Extent:   l.number,
		Slot:     i,
		Device:   s.dev(),
		Cluster:  s.cluster(),
		Count:    count,
		Detail:   detail,
	}, l.opt.MaxFindings)
}

// judge judges the slots of an extent, and lists the clusters that can be
// taken.
func (l *ledger) judge(e *extent, list bool) {
	l.offset, l.number = e.offset, e.number
	data := extentHeader // where the blocks of slot i begin
	for i := 0; i < slotsPerExtent; i++ {
		n, blocks := l.run(e, i, data)
		if list {
			e.listRun(i, n, data)
		}
		i += n
		data += blocks * BlockSize
		if i == slotsPerExtent {
			break
		}
		c := cluster{slot: e.header.slot(i), index: i, data: data, size: ClusterSize}
		if c.dev() != 0 {
			data += c.blocks() * BlockSize
			if l.single(e, &c, data) && list {
				e.clusters = append(e.clusters, c)
			}
		} else if c.slot != 0 {
			l.note(i, c.slot, CodeUnusedSlot, 0, "")
		}
	}
	if data != extentHeader+e.header.blocks()*BlockSize {
		l.miscounted(e)
	}
}

// run takes the slots from i on that are whole clusters of the device of the
// cluster before, new and with nothing to say about them: nearly all of an
// archive. It returns how many, and how many blocks they store.
func (l *ledger) run(e *extent, i, data int) (n, blocks int) {
	d := l.last
	next, late, zero := d.next, int64(0), 0
	// Clusters out of order are so many in an archive of a running machine
	// that most are only counted, here without a branch.
	alert := int64(-1)
	if l.report.counts[CodeOutOfOrder] >= int64(l.opt.MaxFindings) {
		alert = 0
	}
	id, plain, seen := d.ID, d.plain, d.seen
	room := (e.length - data) / BlockSize
	for slots := e.header[offSlots+8*i:]; len(slots) >= 8; slots = slots[8:] {
		s := slot(binary.BigEndian.Uint64(slots))
		if want := makeSlot(0, id, uint32(next)); s.place() == want && next < plain {
			most := min(seen.room(uint32(next)), int(min(plain-next, slotsPerExtent)), len(slots)/8)
			if k, b, z := inOrder(slots[:8*most], want, room-blocks); k > 0 {
				seen.addRun(uint32(next), k)
				n, blocks, zero, next = n+k, blocks+b, zero+z, next+int64(k)
				slots = slots[8*(k-1):]
				continue
			}
		}
		num, stored := int64(s.cluster()), s.blocks()
		behind := (num - next) >> 63 // -1 or 0
		if !s.of(id) || num >= plain || behind&alert != 0 || blocks+stored > room || !seen.add(s.cluster()) {
			break
		}
		n++
		next = num + 1
		late -= behind
		blocks += stored
		zero += int((uint32(s.mask()) - 1) >> 31) // 1 for an empty mask
	}
	d.next = next
	l.taken += int64(n)
	d.Clusters += int64(n)
	d.ZeroClusters += int64(zero)
	d.StoredBlocks += int64(blocks)
	l.report.counts[CodeOutOfOrder] += late
	return n, blocks
}

// inOrder counts the slots of a device that follow each other from want on, up
// to one with which there are more than room blocks.
func inOrder(slots []byte, want slot, room int) (n, blocks, zero int) {
	for ; len(slots) >= 8; slots = slots[8:] {
		s := slot(binary.BigEndian.Uint64(slots))
		stored := s.blocks()
		if s.place() != want || blocks+stored > room {
			break
		}
		want++
		n++
		blocks += stored
		zero += int((uint32(s.mask()) - 1) >> 31) // 1 for an empty mask
	}
	return n, blocks, zero
}

// listRun lists the clusters of a run.
func (e *extent) listRun(i, n, data int) {
	for ; n > 0; n-- {
		s := e.header.slot(i)
		e.clusters = append(e.clusters, cluster{slot: s, index: i, data: data, size: ClusterSize})
		data += s.blocks() * BlockSize
		i++
	}
}

// single reports whether a cluster, whose blocks end at end, can be taken.
func (l *ledger) single(e *extent, c *cluster, end int) bool {
	d := l.irregular(c)
	if d == nil {
		return false
	}
	if !d.seen.add(c.cluster()) {
		l.note(c.index, c.slot, CodeDuplicate, 0, "")
		return false
	}
	if end > e.length {
		l.miscounted(e)
		l.cutOff(c, (end-e.length+BlockSize-1)/BlockSize)
		c.data = min(c.data, e.length)
	}
	blocks := c.blocks()
	l.taken++
	d.Clusters++
	d.StoredBlocks += int64(blocks)
	if blocks == 0 {
		d.ZeroClusters++
	}
	return true
}

// miscounted records that block_count is not what the masks add up to, where
// it is not, once.
func (l *ledger) miscounted(e *extent) {
	blocks, masked := e.header.blocks(), e.header.maskedBlocks()
	if blocks == masked || e.miscounted {
		return
	}
	e.miscounted = true
	l.report.add(Finding{Code: CodeBlockCount, Severity: CodeBlockCount.severity(l.opt.Profile), Offset: e.offset + offBlockCount,
		Extent: e.number, Slot: -1, Detail: fmt.Sprintf("%d, the masks have %d", blocks, masked)}, l.opt.MaxFindings)
}

// irregular decides whether a cluster is one of its device. It returns the
// device, or nil where it is not.
func (l *ledger) irregular(c *cluster) *deviceBook {
	i, num := c.index, int64(c.cluster())
	if c.reserved() != 0 {
		l.note(i, c.slot, CodeReserved, 0, "")
	}
	d := l.devs[c.dev()]
	if d == nil {
		if d = l.unknown(i, c.slot); d == nil {
			return nil
		}
	}
	if l.last != d {
		if d.next > 0 {
			l.note(i, c.slot, CodeInterleaved, 0, "")
		}
		l.last = d
	}
	vm := d.ID == l.vmstate
	switch {
	case vm && num != d.next:
		l.note(i, c.slot, CodeVMStateOrder, 0, "")
	case num < d.next:
		l.note(i, c.slot, CodeOutOfOrder, 0, "")
	}
	d.next = num + 1
	if num >= d.plain && !l.special(c, d, vm) {
		return nil
	}
	return d
}

// unknown records a slot of a device that the header does not name. A salvage
// opens a book for it.
func (l *ledger) unknown(i int, s slot) *deviceBook {
	l.note(i, s, CodeDeviceID, 0, "")
	if l.opt.Profile != Salvage {
		return nil
	}
	d := newBook(DeviceInfo{ID: s.dev(), Name: fmt.Sprintf("device%d", s.dev())}, false, false)
	l.devs[s.dev()] = d
	return d
}

// special judges a cluster that there are rules for: the last one of a device,
// one past the end, those of vmstate and of devices that the reference does
// not know. It reports whether the cluster can be taken.
func (l *ledger) special(c *cluster, d *deviceBook, vm bool) bool {
	i, num := c.index, int64(c.cluster())
	if !d.known { // as large as its clusters make it
		d.Size = max(d.Size, (num+1)*ClusterSize)
		d.count = max(d.count, num+1)
	}
	if d.ID > MaxDevices && !vm {
		l.reference(i, c.slot, d, "device ID 255")
	}
	if num >= d.count {
		l.pastEnd(i, c.slot, d, vm)
		return false
	}
	c.size = int(min(ClusterSize, d.Size-num*ClusterSize))
	return c.size == ClusterSize || vm || l.lastCluster(c, d)
}

// pastEnd records a cluster past the end of its device. The reference reader
// accepts an empty one, once, as far as its bitmap reaches, and of vmstate
// all.
func (l *ledger) pastEnd(i int, s slot, d *deviceBook, vm bool) {
	num := int64(s.cluster())
	switch {
	case vm:
		l.note(i, s, CodeVMStateRange, 0, "")
	case num >= d.rounded || s.mask() != 0:
		l.note(i, s, CodeClusterRange, 0, "")
	default:
		bit := uint64(1) << (num - d.count)
		if d.padding&bit != 0 {
			l.note(i, s, CodeDuplicate, 0, "")
		}
		d.padding |= bit
		l.note(i, s, CodePadding, 0, "")
	}
}

// lastCluster reports whether the stored blocks of a short last cluster lie
// inside the device. The reference reader takes one that is stored whole, and
// trims it, as writers before 2020 made them; a salvage trims any.
func (l *ledger) lastCluster(c *cluster, d *deviceBook) bool {
	i := c.index
	start, end := int64(c.cluster())*ClusterSize, bits.Len16(c.mask())
	if end > (c.size+BlockSize-1)/BlockSize {
		if c.mask() != 0xffff {
			l.note(i, c.slot, CodeBlockRange, 0, "")
			return l.opt.Profile == Salvage
		}
		l.note(i, c.slot, CodeTailBlocks, 0, "")
		end = 1
	}
	// The reference reader knows only whole sectors: it drops the bytes past
	// the last one, and fails where a block begins there.
	sectors := d.Size / 512 * 512
	if int64(c.cluster()) >= d.rounded || end > 0 && start+int64(end-1)*BlockSize >= sectors {
		l.reference(i, c.slot, d, "data past the last whole sector")
	}
	return true
}

// reference records, once for a device, what Proxmox's tool cannot read.
func (l *ledger) reference(i int, s slot, d *deviceBook, detail string) {
	if !d.beyond {
		d.beyond = true
		l.note(i, s, CodeReference, 0, detail)
	}
}

// cutOff drops the last blocks of c, which are not in the archive, at most
// all.
func (l *ledger) cutOff(c *cluster, lost int) {
	mask := c.mask()
	lost = min(lost, c.blocks())
	for range lost {
		mask &^= 1 << (bits.Len16(mask) - 1)
	}
	if lost > 0 {
		c.slot = makeSlot(mask, c.dev(), c.cluster())
		l.note(c.index, c.slot, CodeLost, int64(lost)*BlockSize, "")
	}
}

// close records what is missing at the end of the archive, at offset at.
func (l *ledger) close(at, extents int64) {
	for _, d := range l.devs {
		if d == nil {
			continue
		}
		code := CodeMissing
		if d.ID == l.vmstate {
			code = CodeVMStateMissing
		}
		severity := code.severity(l.opt.Profile)
		if l.opt.Profile == Proxmox && d.ID > MaxDevices {
			severity = Warning // its tool does not look at the device
		}
		for first, n := range d.seen.gaps(d.count) {
			d.Missing += n
			l.report.add(Finding{Code: code, Severity: severity, Offset: at, Extent: extents, Slot: -1,
				Device: d.ID, Cluster: uint32(first), Count: n}, l.opt.MaxFindings)
		}
	}
}

// snapshot returns the report as it stands after so many extents.
func (l *ledger) snapshot(extents int64) *Report {
	r := l.report.clone()
	r.Extents = extents
	for _, d := range l.devs {
		if d == nil {
			continue
		}
		r.Devices = append(r.Devices, d.DeviceReport)
		r.Clusters += d.Clusters
		r.ZeroClusters += d.ZeroClusters
		r.StoredBlocks += d.StoredBlocks
	}
	return r
}
