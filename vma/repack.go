package vma

import (
	"cmp"
	"context"
	"fmt"
	"io"

	"github.com/virtfmt/virtfmt/internal/align"
)

// RepackOptions says how an archive is repacked. nil and the zero value are
// the defaults.
type RepackOptions struct {
	// UUID and CTime become those of the new archive. By default they stay as
	// they are. Archives that are to share data in a store that deduplicates
	// need the same UUID, which every extent has in it.
	UUID  [16]byte
	CTime int64
	// Edit, where set, may change the header that is written: configs, names,
	// which devices there are. A device that is kept keeps its ID.
	Edit func(h *Header) error
	// FillMissing takes clusters that the archive has lost for zeros. By
	// default an archive that a salvage found to lack some is an error.
	FillMissing bool
	// Workers and Progress are those of [Writer.CopyFrom]; Progress counts the
	// bytes of all devices.
	Workers  int
	Progress func(done, total int64)
}

// Repack writes the archive a to w in sequential order: the devices one after
// the other, each from its start, blocks that are zero not stored. The same
// content makes the same bytes, in whatever order and form a holds it. Sizes
// are rounded up to 512 bytes.
//
// A name that is not safe as a file name, or is there twice, is an error; Edit
// can give another.
func Repack(ctx context.Context, w io.Writer, a *Archive, o *RepackOptions) error {
	if o == nil {
		o = &RepackOptions{}
	}
	if f, ok := a.report.loss(); ok && !o.FillMissing {
		return fmt.Errorf("vma: repack: %w: %w", ErrIncomplete, f)
	}
	h := a.header.clone()
	h.UUID, h.CTime = cmp.Or(o.UUID, h.UUID), cmp.Or(o.CTime, h.CTime)
	h.Devices = h.Devices[:0]
	for _, d := range a.devices {
		info := d.info
		info.Size = align.Up(info.Size, 512)
		h.Devices = append(h.Devices, info)
	}
	if o.Edit != nil {
		if err := o.Edit(&h); err != nil {
			return fmt.Errorf("vma: repack: %w", err)
		}
	}
	sources, total, err := a.sources(&h)
	if err != nil {
		return err
	}
	wr, err := NewWriter(w, &h, &WriterOptions{Verbatim: true})
	if err != nil {
		return err
	}
	done := int64(0)
	for i, d := range sources {
		opt := &CopyOptions{Workers: o.Workers}
		if o.Progress != nil {
			opt.Progress = func(n, _ int64) { o.Progress(done+n, total) }
		}
		if err := wr.CopyFrom(ctx, h.Devices[i].ID, d, opt); err != nil {
			return err
		}
		done += h.Devices[i].Size
	}
	return wr.Close()
}

// sources returns the device that each device of h is made of, and the sum of
// their sizes. An ID that a Writer does not take is replaced.
func (a *Archive) sources(h *Header) (sources []*Device, total int64, err error) {
	var taken [256]bool
	for _, d := range h.Devices {
		taken[d.ID] = true
	}
	for i := range h.Devices {
		d := &h.Devices[i]
		src := a.byID(d.ID)
		if src == nil {
			return nil, 0, fmt.Errorf("vma: repack: the archive has no device %d", d.ID)
		}
		for id := uint8(MaxDevices); d.ID > MaxDevices && id > 0; id-- {
			if !taken[id] {
				d.ID = id
			}
		}
		sources = append(sources, src)
		total += d.Size
	}
	return sources, total, nil
}

func (a *Archive) byID(id uint8) *Device {
	for _, d := range a.devices {
		if d.info.ID == id {
			return d
		}
	}
	return nil
}
