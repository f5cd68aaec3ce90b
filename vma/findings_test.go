package vma_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/vma"
)

// extentAt returns the offset of extent i of the archive b.
func extentAt(b []byte, i int) int64 {
	p := takeApart(b)
	at := int64(len(p.header))
	for _, e := range p.extents[:i] {
		at += int64(len(e))
	}
	return at
}

// TestEveryFinding makes every kind of finding, and looks at its place and at
// what it means under each profile.
func TestEveryFinding(t *testing.T) {
	base := mutant(t, "none")
	slotAt := func(extent, slot int) int64 { return extentAt(base, extent) + 40 + 8*int64(slot) }
	of := func(dev uint8, num uint32) (extent int64, slot int, at int64) {
		e, i := takeApart(base).find(dev, num)
		return int64(e), i, slotAt(e, i)
	}
	header := func(c vma.Code, off int64, dev uint8) vma.Finding {
		return vma.Finding{Code: c, Offset: off, Extent: -1, Slot: -1, Device: dev}
	}
	extent := func(c vma.Code, i int, off int64) vma.Finding {
		return vma.Finding{Code: c, Offset: extentAt(base, i) + off, Extent: int64(i), Slot: -1}
	}
	slot := func(c vma.Code, extent, i int, dev uint8, num uint32) vma.Finding {
		return vma.Finding{Code: c, Offset: slotAt(extent, i), Extent: int64(extent), Slot: i, Device: dev, Cluster: num}
	}
	cluster := func(c vma.Code, dev uint8, num uint32, newDev uint8, newNum uint32) vma.Finding {
		e, i, at := of(dev, num)
		return vma.Finding{Code: c, Offset: at, Extent: e, Slot: i, Device: newDev, Cluster: newNum}
	}
	counted := func(f vma.Finding, n int64) vma.Finding { f.Count = n; return f }
	const entry = devEntry + 32
	end, extents := int64(len(base)), int64(len(takeApart(base).extents))
	missing := func(c vma.Code, dev uint8, num uint32, at int64) vma.Finding {
		return vma.Finding{Code: c, Offset: at, Extent: extents, Slot: -1, Device: dev, Cluster: num, Count: 1}
	}
	seen := make(map[vma.Code]bool)
	for _, c := range []struct {
		mutation string
		want     vma.Finding
		severity string // under Proxmox, Strict and Salvage
	}{
		{"magic", header(vma.CodeHeaderMagic, 0, 0), "error error error"},
		{"version 2", header(vma.CodeHeaderVersion, 4, 0), "error error warning"},
		{"header size 0", header(vma.CodeHeaderSize, 56, 0), "error error warning"},
		{"header md5", header(vma.CodeHeaderMD5, 32, 0), "error error warning"},
		{"blob offset low", header(vma.CodeBlobRange, 48, 0), "error error warning"},
		{"blob size wraps", header(vma.CodeBlobWrap, 52, 0), "warning error warning"},
		{"blob overrun unused", header(vma.CodeBlobOverrun, 12288+int64(takeApart(base).get32(52)), 0), "warning error warning"},
		{"config name dangling", header(vma.CodeConfigPointer, 2044, 0), "error error warning"},
		{"config without name", header(vma.CodeConfigHalf, 2044, 0), "warning error warning"},
		{"config name with slash", header(vma.CodeConfigName, 2044, 0), "warning error warning"},
		{"device size 0", header(vma.CodeDeviceEntry, entry, 1), "warning error warning"},
		{"device name unsafe", header(vma.CodeDeviceName, entry, 1), "warning error warning"},
		{"device too large", header(vma.CodeDeviceSize, entry, 1), "error error warning"},
		{"device of 65836 bytes", header(vma.CodeSectorSize, entry+32, 2), "warning warning note"},
		{"device moves to 255", cluster(vma.CodeReference, 2, 0, 255, 0), "error note note"},
		{"reserved after header size", header(vma.CodeReserved, 60, 0), "note error note"},
		{"reserved before devices", header(vma.CodeReserved, 4095, 0), "note error note"},
		{"reserved of a device", header(vma.CodeReserved, entry, 1), "note error note"},
		{"reserved end of a device", header(vma.CodeReserved, entry, 1), "note error note"},
		{"device 0", header(vma.CodeReserved, devEntry, 0), "note error note"},
		{"slot reserved", func() vma.Finding {
			_, dev, num := takeApart(base).slot(0, 0)
			return slot(vma.CodeReserved, 0, 0, dev, num)
		}(), "note error note"},
		{"cut in a header", vma.Finding{Code: vma.CodeTruncated, Offset: extentAt(base, 2) + 100, Extent: 2, Slot: -1}, "error error warning"},
		{"extent magic", extent(vma.CodeExtentMagic, 1, 0), "error error warning"},
		{"extent md5", extent(vma.CodeExtentMD5, 1, 24), "error error warning"},
		{"extent uuid", extent(vma.CodeExtentUUID, 1, 8), "error error warning"},
		{"extent reserved", extent(vma.CodeExtentReserved, 1, 4), "error error warning"},
		{"block count low", extent(vma.CodeBlockCount, 0, 6), "error error warning"},
		{"slot unused with mask", slot(vma.CodeUnusedSlot, 2, 58, 0, 3), "note warning note"},
		{"device unknown", cluster(vma.CodeDeviceID, 2, 2, 9, 2), "error error warning"},
		{"cluster past the end", cluster(vma.CodeClusterRange, 2, 1, 2, 3), "error error warning"},
		{"padding", slot(vma.CodePadding, 2, 58, 2, 63), "note error note"},
		{"tail past the end", cluster(vma.CodeBlockRange, 1, 139, 1, 139), "error error warning"},
		{"tail whole", cluster(vma.CodeTailBlocks, 1, 139, 1, 139), "note note note"},
		{"duplicate", cluster(vma.CodeDuplicate, 1, 6, 1, 6), "error error warning"},
		{"duplicate empty", slot(vma.CodeDuplicate, 2, 58, 2, 2), "error error warning"},
		{"vmstate gap", cluster(vma.CodeVMStateOrder, 3, 2, 3, 2), "error error warning"},
		{"vmstate past its size", slot(vma.CodeVMStateRange, 2, 58, 3, 4), "note warning note"},
		{"clusters swapped", cluster(vma.CodeOutOfOrder, 1, 6, 1, 5), "note note note"},
		{"devices swapped", cluster(vma.CodeInterleaved, 2, 1, 2, 1), "note note note"},
		{"cluster missing", missing(vma.CodeMissing, 1, 70, 0), "error error error"},
		{"vmstate last missing", missing(vma.CodeVMStateMissing, 3, 3, 0), "warning error error"},
		{"cut before a block", func() vma.Finding {
			p := takeApart(base)
			for i := 58; ; i-- {
				if mask, dev, num := p.slot(2, i); mask != 0 {
					return counted(slot(vma.CodeLost, 2, i, dev, num), 4096)
				}
			}
		}(), "error error error"},
		{"trailing byte", vma.Finding{Code: vma.CodeTrailing, Offset: end, Extent: extents, Slot: -1, Count: 1}, "error error warning"},
		{"extent zeroed", counted(extent(vma.CodeSkipped, 1, 0), extentAt(base, 2)-extentAt(base, 1)), "error error warning"},
	} {
		seen[c.want.Code] = true
		var b []byte
		if c.mutation == "device too large" { // the oracle knows no such limit
			p := takeApart(base)
			p.put64(entry+8, 1<<48+512)
			b = p.sign().join()
		} else {
			b = mutant(t, c.mutation)
		}
		if c.want.Code == vma.CodeMissing || c.want.Code == vma.CodeVMStateMissing {
			c.want.Offset = int64(len(b))
		}
		var severity []string
		for _, p := range []vma.Profile{vma.Proxmox, vma.Strict, vma.Salvage} {
			r, err := vma.Verify(t.Context(), bytes.NewReader(b), &vma.Options{Profile: p})
			if err != nil {
				t.Fatal(err)
			}
			found := false
			var same []vma.Finding
			for _, f := range r.Findings {
				if f.Code != c.want.Code {
					continue
				}
				same = append(same, f)
				if sev := f.Severity; !found {
					f.Severity, f.Detail = 0, ""
					if found = f == c.want; found {
						severity = append(severity, sev.String())
					}
				}
			}
			if !found {
				t.Errorf("%s, %v: %+v\nwant %+v\n(all %v)", c.mutation, p, same, c.want, r.Findings)
			}
		}
		if strings.Join(severity, " ") != c.severity {
			t.Errorf("%s: %s, want %s", c.mutation, severity, c.severity)
		}
	}
	for c := vma.Code(0); c.String() != fmt.Sprintf("code(%d)", uint8(c)); c++ {
		if !seen[c] {
			t.Errorf("nothing is found as %q", c)
		}
	}
}
