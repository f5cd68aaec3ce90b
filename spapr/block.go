package spapr

import (
	"encoding/binary"
	"fmt"
	"io"
)

// A Block is an RTAS parameter block: what a guest fills in to call a service,
// and what it finds after.
type Block struct {
	Token   uint32
	Args    []uint32
	Results []uint32 // the first is the status
}

// Status returns the status of the service, RTASHardwareError if the block has
// no results.
func (b *Block) Status() RTASStatus {
	if len(b.Results) == 0 {
		return RTASHardwareError
	}
	return RTASStatus(b.Results[0])
}

// AppendBinary appends the block as it lies in guest memory.
func (b *Block) AppendBinary(p []byte) ([]byte, error) {
	p = binary.BigEndian.AppendUint32(p, b.Token)
	p = binary.BigEndian.AppendUint32(p, uint32(len(b.Args)))
	p = binary.BigEndian.AppendUint32(p, uint32(len(b.Results)))
	for _, words := range [][]uint32{b.Args, b.Results} {
		for _, v := range words {
			p = binary.BigEndian.AppendUint32(p, v)
		}
	}
	return p, nil
}

// MarshalBinary returns the block as it lies in guest memory.
func (b *Block) MarshalBinary() ([]byte, error) { return b.AppendBinary(nil) }

// UnmarshalBinary decodes a block. What follows it is ignored. A block whose
// counts go past the end of p is a [FormatError] that wraps
// [io.ErrUnexpectedEOF].
func (b *Block) UnmarshalBinary(p []byte) error {
	if len(p) < rtasHeaderLen {
		return &FormatError{0, "header", fmt.Errorf("%d of %d bytes: %w", len(p), rtasHeaderLen, io.ErrUnexpectedEOF)}
	}
	token := binary.BigEndian.Uint32(p)
	nargs, nret := binary.BigEndian.Uint32(p[4:]), binary.BigEndian.Uint32(p[8:])
	words := uint64(len(p)-rtasHeaderLen) / 4
	if uint64(nargs) > words {
		return &FormatError{4, "nargs", fmt.Errorf("%d arguments, %d words follow: %w", nargs, words, io.ErrUnexpectedEOF)}
	}
	if uint64(nret) > words-uint64(nargs) {
		return &FormatError{8, "nret", fmt.Errorf("%d results, %d words follow the arguments: %w", nret, words-uint64(nargs), io.ErrUnexpectedEOF)}
	}
	p = p[rtasHeaderLen:]
	*b = Block{token, decodeWords(p, nargs), decodeWords(p[4*uint64(nargs):], nret)}
	return nil
}

func decodeWords(p []byte, n uint32) []uint32 {
	if n == 0 {
		return nil
	}
	words := make([]uint32, n)
	for i := range words {
		words[i] = binary.BigEndian.Uint32(p[4*i:])
	}
	return words
}

// A Guest makes hypercalls as firmware and operating systems do, for tests and
// examples.
type Guest struct {
	// Call makes a hypercall: a Machine's, or that of another VMM.
	Call func(*Regs) Status
	// Memory is what the guest and the machine share.
	Memory Memory
	// Block is where in Memory the guest keeps its RTAS parameter block.
	Block uint64
	// Token finds the token of a service, as [Services.Token] does.
	Token func(service string) (token uint32, ok bool)
}

// Hypercall makes a hypercall with arguments from r4 on, at most 9, and
// returns the registers after it.
func (g *Guest) Hypercall(op uint64, args ...uint64) (Status, Regs) {
	var r Regs
	r.R[3] = op
	copy(r.R[4:], args)
	status := g.Call(&r)
	return status, r
}

// Memop makes an H_LOGICAL_MEMOP of count elements of 1<<log2size bytes.
func (g *Guest) Memop(op, dst, src, log2size, count uint64) Status {
	status, _ := g.Hypercall(HLogicalMemop, dst, src, log2size, count, op)
	return status
}

// RTAS calls a service and returns its results but for the status: there are
// nret words in all. The error tells of a service that the machine does not
// know, with RTASParameterError for a status; a status is no error by itself.
func (g *Guest) RTAS(service string, nret int, args ...uint32) (RTASStatus, []uint32, error) {
	token, ok := g.Token(service)
	if !ok {
		return RTASParameterError, nil, fmt.Errorf("%w: %q", errUnknownService, service)
	}
	b := Block{Token: token, Args: args, Results: make([]uint32, max(nret, 1))}
	p, err := b.MarshalBinary()
	if err != nil {
		return RTASParameterError, nil, err
	}
	g.Memory.Store(g.Block, p)
	if status, _ := g.Hypercall(HRTAS, g.Block); status != HSuccess {
		return RTASParameterError, nil, fmt.Errorf("%w: %q, token 0x%x: %v", errUnknownService, service, token, status)
	}
	g.Memory.Load(g.Block, p)
	if err := b.UnmarshalBinary(p); err != nil {
		return RTASParameterError, nil, err
	}
	return b.Status(), b.Results[1:], nil
}
