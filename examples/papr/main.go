// Command papr plays both sides of the hypercalls between a PowerPC guest's
// firmware and its VMM, and prints each call: the firmware places the RTAS
// stub, scrolls and inverts a frame buffer with H_LOGICAL_MEMOP, and calls
// RTAS services.
//
//	go run ./papr                         all of it
//	go run ./papr -strict                 as the text has it, not as QEMU does
//	go run ./papr get-power-level -1      one service: name, arguments
//	go run ./papr -list                   the services and their tokens
package main

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/virtfmt/virtfmt/examples/internal/stdflag"
	"github.com/virtfmt/virtfmt/spapr"
)

// Where things are in the guest's memory.
const (
	ramSize  = 1 << 20
	blockAt  = 0x1000  // the RTAS parameter block
	bufferAt = 0x2000  // what services store to
	screenAt = 0x10000 // a frame buffer of lines of 32 bytes
	stubAt   = 0xf0000
	line     = 32
	results  = 9 // words of results asked for: no service here has more
)

func main() {
	out := bufio.NewWriter(os.Stdout)
	err := run(os.Args[1:], out, time.Now)
	if err == flag.ErrHelp {
		err = nil
	}
	if err = errors.Join(err, out.Flush()); err != nil {
		fmt.Fprintln(os.Stderr, "papr:", err)
		os.Exit(1)
	}
}

func run(args []string, w io.Writer, clock func() time.Time) error {
	fs := flag.NewFlagSet("papr", flag.ContinueOnError)
	strict := fs.Bool("strict", false, "follow the text where QEMU does not")
	list := fs.Bool("list", false, "list the services")
	if err := stdflag.Parse(fs, args, w); err != nil {
		return err
	}
	ram := make([]byte, ramSize)
	m := machine(ram, w, clock)
	if *strict {
		m.Strict = spapr.StrictAll
	}
	guest := &spapr.Guest{Call: m.Call, Memory: m.Memory, Block: blockAt, Token: spapr.TokenOf(m.Properties(stubAt))}
	switch {
	case *list:
		for _, p := range m.Properties(stubAt) {
			fmt.Fprintf(w, "%-30s %q\n", p.Name, p.Value)
		}
		return nil
	case fs.NArg() > 0:
		return one(guest, fs.Args(), w)
	}
	return tour(guest, ram, w)
}

// machine returns a machine with memory, a console, a clock, NVRAM and system
// parameters, that tells each hypercall.
func machine(ram []byte, w io.Writer, clock func() time.Time) *spapr.Machine {
	return &spapr.Machine{
		Memory:   spapr.RAM{Data: ram},
		Terminal: func(unit uint64) spapr.Terminal { return console{w} },
		Clock:    clock,
		NVRAM:    make([]byte, 64<<10),
		SystemParameters: map[uint32][]byte{
			spapr.ParameterSPLPAR: spapr.SPLPARCharacteristics(ramSize>>20, 1, 1, 1),
		},
		Trace: func(e spapr.Event) { fmt.Fprintf(w, "    %v\n", e) },
	}
}

// console prints what the guest does, and never has any input.
type console struct{ w io.Writer }

func (c console) Put(p []byte) bool {
	fmt.Fprintf(c.w, "    console: %q\n", p)
	return true
}

func (console) Get([]byte) int { return 0 }

// one calls a service.
func one(guest *spapr.Guest, args []string, w io.Writer) error {
	var words []uint32
	for _, a := range args[1:] {
		v, err := strconv.ParseInt(a, 0, 64)
		if err != nil || v < -1<<31 || v >= 1<<32 {
			return fmt.Errorf("argument %q is not a number of 32 bits", a)
		}
		words = append(words, uint32(v))
	}
	for nret := 1; nret <= results; nret++ {
		status, got, err := guest.RTAS(args[0], nret, words...)
		if err != nil {
			return err
		}
		if status != spapr.RTASParameterError && status != spapr.RTASHardwareError {
			fmt.Fprintln(w, status, got)
			return nil
		}
	}
	return fmt.Errorf("%s takes no such arguments", args[0])
}

func tour(guest *spapr.Guest, ram []byte, w io.Writer) error {
	fmt.Fprintf(w, "The firmware places the RTAS stub at 0x%x: %x.\n", stubAt, spapr.RTASStub())
	guest.Memory.Store(stubAt, spapr.RTASStub())

	fmt.Fprintln(w, "It has a frame buffer of three lines,")
	screen := ram[screenAt:][:3*line]
	for i := range screen {
		screen[i] = "abc"[i/line]
	}
	show(w, screen)
	fmt.Fprintln(w, "scrolls it up by one line,")
	guest.Memop(spapr.MemopCopy, screenAt, screenAt+line, 3, 2*line/8)
	show(w, screen)
	fmt.Fprintln(w, "and inverts the last.")
	guest.Memop(spapr.MemopNot, screenAt+2*line, screenAt+2*line, 3, line/8)
	show(w, screen)

	fmt.Fprintln(w, "It stores a word to a device that is not there,")
	guest.Hypercall(spapr.HLogicalCIStore, 4, 1<<32, 0x12345678)
	fmt.Fprintln(w, "and calls RTAS services.")
	for _, c := range []struct {
		service string
		nret    int
		args    []uint32
	}{
		{"display-character", 1, []uint32{'!'}},
		{"get-time-of-day", 8, nil},
		{"ibm,get-system-parameter", 1, []uint32{spapr.ParameterSPLPAR, bufferAt, 128}},
		{"nvram-store", 2, []uint32{0, bufferAt, 16}},
		{"query-cpu-stopped-state", 2, []uint32{0}},
		{"set-time-of-day", 1, []uint32{2012}},
		{"power-off", 1, []uint32{0, 0}},
	} {
		if _, _, err := guest.RTAS(c.service, c.nret, c.args...); err != nil {
			return err
		}
	}
	parameter := ram[bufferAt+2:]
	fmt.Fprintf(w, "The system parameter is %q.\n", parameter[:bytes.IndexByte(parameter, 0)])
	return nil
}

// show prints the first bytes of each line.
func show(w io.Writer, screen []byte) {
	for i := 0; i < len(screen); i += line {
		fmt.Fprintf(w, "    screen: %x...\n", screen[i:i+8])
	}
}
