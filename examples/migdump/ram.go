package main

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/virtfmt/virtfmt/migschema"
)

// A ramBlock is what a stream says of a block of RAM, in JSON.
type ramBlock struct {
	Name    string      `json:"name"`
	Length  uint64      `json:"length"`
	Offset  *int64      `json:"offset"` // in OUT, null of a block that is left out
	Extents []ramExtent `json:"extents"`
}

type ramExtent struct {
	Start  int64  `json:"start"`
	Length int64  `json:"length"`
	Kind   string `json:"kind"`
}

// nowhere is an image that is not kept.
type nowhere struct{}

func (nowhere) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

func (nowhere) ReadAt(p []byte, _ int64) (int, error) {
	clear(p)
	return len(p), nil
}

func (p *program) ram(args []string) error {
	block := p.flags.String("block", "", "a block alone, from the start of OUT, such as pc.ram")
	args, err := p.parse(args, 1, 2)
	if err != nil {
		return err
	}
	o, err := p.options()
	if err != nil {
		return err
	}
	src, done, err := p.open(args[0])
	if err != nil {
		return err
	}
	defer done()
	opt := &migschema.RAMOptions{PageSize: p.pageSize}
	if *block != "" {
		opt.Place = func(b migschema.RAMBlock) (int64, bool) { return 0, b.Name == *block }
	}
	if len(args) == 1 {
		m, err := migschema.ReadRAM(nowhere{}, src, o, opt)
		return errors.Join(p.printBlocks(m), err, placed(m, *block))
	}
	if args[1] == "-" {
		return errors.New("ram writes out of order: it needs a file, not standard output")
	}
	var m *migschema.RAM
	err = output(args[1], src, func(f *os.File, regular bool) (err error) {
		opt.Sparse = regular
		if m, err = migschema.ReadRAM(f, src, o, opt); err != nil {
			return err
		}
		if err = placed(m, *block); err != nil || !regular {
			return err
		}
		return f.Truncate(end(m))
	})
	if err != nil {
		return err
	}
	return p.printBlocks(m)
}

// placed is an error where the block that was asked for is not there.
func placed(m *migschema.RAM, block string) error {
	has := func(r migschema.RAMRange) bool { return r.Block.Name == block }
	if block != "" && !slices.ContainsFunc(m.Blocks(), has) {
		return fmt.Errorf("the stream has no block %q", block)
	}
	return nil
}

// end returns where the image of RAM ends.
func end(m *migschema.RAM) (n int64) {
	for _, r := range m.Blocks() {
		if r.Offset >= 0 {
			n = max(n, r.Offset+int64(r.Block.Len))
		}
	}
	return n
}

// printBlocks prints where the blocks lie and what was sent of each.
func (p *program) printBlocks(m *migschema.RAM) error {
	blocks := []ramBlock{}
	for _, r := range m.Blocks() {
		b := ramBlock{Name: r.Block.Name, Length: r.Block.Len, Extents: []ramExtent{}}
		if r.Offset >= 0 {
			b.Offset = &r.Offset
			for e := range m.Extents(b.Name) {
				b.Extents = append(b.Extents, ramExtent{e.Start, e.Length, e.Kind.String()})
			}
		}
		blocks = append(blocks, b)
	}
	if p.json {
		return p.printJSON(p.out, blocks)
	}
	for _, b := range blocks {
		at := "left out"
		if b.Offset != nil {
			at = fmt.Sprintf("at %#x", *b.Offset)
		}
		if _, err := fmt.Fprintf(p.out, "%s: %d bytes, %s\n", b.Name, b.Length, at); err != nil {
			return err
		}
		for _, e := range b.Extents {
			fmt.Fprintf(p.out, "  %#012x %12d %s\n", e.Start, e.Length, e.Kind)
		}
	}
	return nil
}
