package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"strings"

	"github.com/virtfmt/virtfmt/libxlfmt"
)

// A recordLine is what is told of a record.
type recordLine struct {
	Index  int    `json:"index"`
	Offset int64  `json:"offset"`
	Layer  string `json:"layer"`
	Type   string `json:"type"`
	Code   uint32 `json:"code"`
	Length int64  `json:"length"`
	Detail string `json:"detail,omitempty"`
	Sum    string `json:"sha256,omitempty"`
}

func (p *program) records(args []string) error {
	sum := p.flags.Bool("sum", false, "print the SHA-256 of each body")
	args, err := p.parse(args, 1, 1)
	if err != nil {
		return err
	}
	src, done, err := p.open(args[0])
	if err != nil {
		return err
	}
	defer done()
	lines := []recordLine{}
	err = eachRecord(src, *sum, func(l recordLine) {
		if p.json {
			lines = append(lines, l)
			return
		}
		text := fmt.Sprintf("%4d %#010x %-7s %-22s %9d  %s %s", l.Index, l.Offset, l.Layer, l.Type, l.Length, l.Detail, l.Sum)
		fmt.Fprintln(p.out, strings.TrimRight(text, " "))
	})
	if p.json {
		if err := p.printJSON(lines); err != nil {
			return err
		}
	}
	return err
}

// eachRecord reads a stream as leniently as it goes.
func eachRecord(src io.Reader, sum bool, tell func(recordLine)) error {
	r, err := libxlfmt.NewReader(src, &libxlfmt.Options{Profile: libxlfmt.Lenient})
	for i := 0; err == nil; i++ {
		var rec libxlfmt.Record
		if rec, err = r.Next(); err != nil {
			break
		}
		l := recordLine{
			Index: i, Offset: rec.Offset, Layer: rec.Type.Layer().String(), Type: rec.Type.String(), Code: rec.Type.Code(),
			Length: rec.Length,
		}
		if sum {
			h := sha256.New()
			_, err = io.Copy(h, r)
			l.Sum = hex.EncodeToString(h.Sum(nil))
		} else {
			l.Detail, err = detail(r, rec)
		}
		if err == nil {
			tell(l)
		}
	}
	if err == io.EOF {
		return nil
	}
	return err
}

// maxDetail is the longest body that is decoded for its detail.
const maxDetail = 1 << 20

// detail says in a few words what is in a body.
func detail(r *libxlfmt.Reader, rec libxlfmt.Record) (string, error) {
	if rec.Type == libxlfmt.TypePageData {
		entries, err := r.Entries()
		return pages(entries), err
	}
	if rec.Length == 0 || rec.Length > maxDetail {
		return "", nil
	}
	body, err := r.Decode()
	if err != nil {
		return "", err
	}
	switch b := body.(type) {
	case libxlfmt.PVInfo:
		return fmt.Sprintf("%d-bit guest, %d levels", 8*b.GuestWidth, b.PTLevels), nil
	case libxlfmt.P2MFrames:
		return fmt.Sprintf("pfns %#x to %#x in %d frames", b.Start, b.End, len(b.Frames)), nil
	case libxlfmt.VCPU:
		return fmt.Sprintf("vcpu %d, %d bytes", b.ID, len(b.State)), nil
	case libxlfmt.TSCInfo:
		return fmt.Sprintf("mode %d, %d kHz, %d ns, incarnation %d", b.Mode, b.KHz, b.Nanoseconds, b.Incarnation), nil
	case libxlfmt.HVMParams:
		return fmt.Sprintf("%d parameters", len(b)), nil
	case libxlfmt.CPUIDPolicy:
		return fmt.Sprintf("%d leaves", len(b)), nil
	case libxlfmt.MSRPolicy:
		return fmt.Sprintf("%d registers", len(b)), nil
	case libxlfmt.EmulatorState:
		return fmt.Sprintf("%v %d, %d bytes", b.ID, b.Index, len(b.State)), nil
	case libxlfmt.CheckpointState:
		return b.String(), nil
	case libxlfmt.Xenstore:
		if b.DraftB {
			return fmt.Sprintf("%d keys, Draft B", len(b.Pairs)), nil
		}
		return fmt.Sprintf("%v %d, %d keys", b.ID, b.Index, len(b.Pairs)), nil
	}
	return "", nil
}

func pages(entries []libxlfmt.PageEntry) string {
	if len(entries) == 0 {
		return ""
	}
	first, last, contents := entries[0].PFN(), uint64(0), 0
	for _, e := range entries {
		first, last = min(first, e.PFN()), max(last, e.PFN())
		if e.Type().HasData() {
			contents++
		}
	}
	return fmt.Sprintf("%d pages, %d with contents, pfns %#x to %#x", len(entries), contents, first, last)
}
