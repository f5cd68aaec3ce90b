package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/virtfmt/virtfmt/libxlfmt"
)

// A runLine is a run of pages, in JSON.
type runLine struct {
	PFN    uint64 `json:"pfn"`
	Count  uint64 `json:"count"`
	Type   string `json:"type"`
	Offset *int64 `json:"offset"` // in the file, null without contents
}

func (p *program) memory(args []string) error {
	list := p.flags.Bool("map", false, "print the runs of pages instead")
	checkpoint := p.flags.Bool("checkpoint", false, "the memory of the last whole checkpoint")
	zeros := p.flags.Bool("zeros", false, "look for zeros in pages and leave them out of OUT")
	args, err := p.parse(args, 1, 2)
	if err != nil {
		return err
	}
	if *list != (len(args) == 1) {
		return errUsage
	}
	f, err := os.Open(args[0])
	if err != nil {
		return err
	}
	defer f.Close()
	x, err := index(f)
	if err != nil {
		return err
	}
	var o libxlfmt.MemoryOptions
	if *checkpoint {
		if o.Records = x.LastCheckpoint(); o.Records == 0 {
			return fmt.Errorf("%s has no checkpoint", args[0])
		}
	} else if x.Err() != nil {
		fmt.Fprintf(p.err, "xlstream: no memory past where the stream breaks: %v\n", x.Err())
	}
	m, err := x.Memory(&o)
	if err != nil {
		return err
	}
	broken := x.Err() != nil && !*checkpoint
	switch {
	case broken && m.Size() == 0:
		return errBad // nothing to take out
	case *list:
		err = p.printRuns(m)
	default:
		err = p.extract(m, f, args[1], *zeros)
	}
	if err == nil && broken {
		return errBad
	}
	return err
}

// extract writes memory to a file of its own, or to standard output.
func (p *program) extract(m *libxlfmt.Memory, src *os.File, name string, zeros bool) error {
	if name == "-" {
		_, err := io.Copy(p.out, io.NewSectionReader(m, 0, m.Size()))
		return err
	}
	if err := distinct(src, name); err != nil {
		return err
	}
	out, err := os.Create(name)
	if err != nil {
		return err
	}
	opt := &libxlfmt.CopyOptions{Sparse: -1}
	if zeros {
		opt.Sparse = 0
	}
	stats, err := m.CopyTo(context.Background(), out, opt)
	if closeErr := out.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	if p.json {
		return p.printJSON(map[string]int64{"size": m.Size(), "written": stats.Written, "holes": stats.Skipped + stats.Zeroed})
	}
	_, err = fmt.Fprintf(p.out, "%d bytes of memory: %d written, %d in holes\n", m.Size(), stats.Written, stats.Skipped+stats.Zeroed)
	return err
}

func (p *program) printRuns(m *libxlfmt.Memory) error {
	lines := []runLine{}
	for r := range m.Runs() {
		l := runLine{PFN: r.PFN, Count: r.Count, Type: r.Type.String()}
		at := "-"
		if r.Offset != libxlfmt.NoOffset {
			l.Offset = &r.Offset
			at = fmt.Sprintf("%#x", r.Offset)
		}
		if p.json {
			lines = append(lines, l)
		} else if _, err := fmt.Fprintf(p.out, "%#08x %8d %-9s %s\n", l.PFN, l.Count, l.Type, at); err != nil {
			return err
		}
	}
	if p.json {
		return p.printJSON(lines)
	}
	return nil
}
