package main

import (
	"errors"
	"fmt"

	"github.com/virtfmt/virtfmt/migschema"
)

// The statistics in JSON.
type (
	streamStats struct {
		Format   string        `json:"format"`
		Octets   int64         `json:"octets"`
		Machine  string        `json:"machine,omitempty"`
		Commands int           `json:"commands"`
		VMDesc   int64         `json:"vmdesc-octets"`
		RAMParts int           `json:"ram-parts"`
		Blocks   []blockStats  `json:"blocks"`
		Devices  []deviceStats `json:"devices"`
	}
	blockStats struct {
		Name       string `json:"name"`
		Length     uint64 `json:"length"`
		Zero       int64  `json:"zero"`
		Full       int64  `json:"full"`
		XBZRLE     int64  `json:"xbzrle"`
		Compressed int64  `json:"compressed"`
		Distinct   int64  `json:"distinct"`
		Octets     int64  `json:"octets"`
	}
	deviceStats struct {
		Name     string `json:"name"`
		ID       int64  `json:"id"`
		Instance int64  `json:"instance"`
		Version  int64  `json:"version"`
		Octets   int64  `json:"octets"`
		Split    string `json:"split,omitempty"`
	}
)

func (p *program) stats(args []string) error {
	args, err := p.parse(args, 1, 1)
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
	// What had been counted when a stream breaks is told as well.
	s, err := migschema.ReadStats(src, o)
	if s.Format == migschema.UnknownFormat {
		return err
	}
	return errors.Join(p.printStats(s), err)
}

func (p *program) printStats(s *migschema.Stats) error {
	if p.json {
		j := streamStats{
			Format: s.Format.String(), Octets: s.Octets, Machine: s.Machine, Commands: s.Commands, VMDesc: s.VMDesc, RAMParts: s.RAMParts,
			Blocks: []blockStats{}, Devices: []deviceStats{},
		}
		for _, b := range s.Blocks {
			j.Blocks = append(j.Blocks, blockStats{b.Name, b.Len, b.Zero, b.Full, b.XBZRLE, b.Compressed, b.Distinct, b.Octets})
		}
		for _, d := range s.Devices {
			split := ""
			if s.Format == migschema.Classic {
				split = d.Split.String()
			}
			j.Devices = append(j.Devices, deviceStats{d.Name, d.ID, d.Instance, d.Version, d.Octets, split})
		}
		return p.printJSON(p.out, j)
	}
	fmt.Fprintf(p.out, "format    %v, %d octets\n", s.Format, s.Octets)
	if s.Machine != "" {
		fmt.Fprintf(p.out, "machine   %s\n", s.Machine)
	}
	fmt.Fprintf(p.out, "commands  %d\nvmdesc    %d octets\nram       %d blocks, %d parts\n", s.Commands, s.VMDesc, len(s.Blocks), s.RAMParts)
	if len(s.Blocks) > 0 {
		fmt.Fprintf(p.out, "\n%-32s %14s %9s %9s %9s %9s %9s %14s\n", "block", "bytes", "zero", "full", "xbzrle", "compr.", "distinct", "octets sent")
	}
	for _, b := range s.Blocks {
		fmt.Fprintf(p.out, "%-32s %14d %9d %9d %9d %9d %9d %14d\n", b.Name, b.Len, b.Zero, b.Full, b.XBZRLE, b.Compressed, b.Distinct, b.Octets)
	}
	if len(s.Devices) > 0 {
		fmt.Fprintf(p.out, "\n%-48s %5s %8s %8s %10s\n", "device", "id", "instance", "version", "octets")
	}
	for _, d := range s.Devices {
		fmt.Fprintf(p.out, "%-48s %5d %8d %8d %10d\n", d.Name, d.ID, d.Instance, d.Version, d.Octets)
	}
	return nil
}
