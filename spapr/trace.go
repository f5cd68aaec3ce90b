package spapr

import (
	"fmt"
	"strings"
)

// An Event is a hypercall that was made, as the Trace hook of a [Machine] is
// told. String tells it in words.
type Event struct {
	Name          string // of the call, such as H_RTAS; "" if it is unknown
	Before, After Regs
	Status        Status
	RTAS          *RTASEvent // of H_RTAS, if a service was called; nil otherwise
}

// RTASEvent is a call of an RTAS service. Of arguments and results there are
// as many as the guest said, but not more than 16.
type RTASEvent struct {
	Service string
	Args    []uint32
	Status  RTASStatus
	Results []uint32 // all but the status
}

const maxTracedWords = 16

func (m *Machine) tracedCall(r *Regs) Status {
	e := Event{Before: *r}
	_, e.Name = m.lookup(r.R[3])
	m.rtas = nil
	e.Status = m.call(r)
	e.After, e.RTAS = *r, m.rtas
	m.rtas = nil
	m.Trace(e)
	return e.Status
}

func (m *Machine) traceRTASArgs(service string, c RTASCall) {
	if m.Trace == nil {
		return
	}
	m.rtas = &RTASEvent{Service: service}
	for i := range min(c.NArgs, maxTracedWords) {
		m.rtas.Args = append(m.rtas.Args, c.Arg(int(i)))
	}
}

func (m *Machine) traceRTASResults(c RTASCall, status RTASStatus) {
	if m.rtas == nil {
		return
	}
	m.rtas.Status = status
	for i := uint64(1); i < min(uint64(c.NRet), maxTracedWords); i++ {
		m.rtas.Results = append(m.rtas.Results, m.load32(c.results()+4*i))
	}
}

// String returns the event as a line of words, such as
//
//	H_LOGICAL_MEMOP: copy 4 elements of size 8 from 0x2000 to 0x1000: H_SUCCESS
func (e Event) String() string {
	r := e.Before.R
	var what string
	switch {
	case e.RTAS != nil:
		return e.RTAS.String()
	case e.Name == "":
		return fmt.Sprintf("hypercall 0x%x: %v", r[3], e.Status)
	case e.Status == HPrivilege:
		what = "in user mode"
	case e.Name == "H_LOGICAL_MEMOP":
		verb := [...]string{MemopCopy: "copy", MemopNot: "invert"}
		op := fmt.Sprintf("operation %d on", r[8])
		if r[8] < uint64(len(verb)) {
			op = verb[r[8]]
		}
		size := fmt.Sprintf("1<<%d", r[6])
		if r[6] <= memopMaxSize {
			size = fmt.Sprint(1 << r[6])
		}
		what = fmt.Sprintf("%s %d elements of size %s from 0x%x to 0x%x", op, r[7], size, r[5], r[4])
	case strings.HasSuffix(e.Name, "_LOAD"):
		what = fmt.Sprintf("%d bytes at 0x%x are 0x%x", r[4], r[5], e.After.R[4])
	case strings.HasSuffix(e.Name, "_STORE"):
		what = fmt.Sprintf("%d bytes at 0x%x, 0x%x", r[4], r[5], r[6])
	case e.Name == "H_PUT_TERM_CHAR":
		what = fmt.Sprintf("%d characters to unit 0x%x", r[5], r[4])
	case e.Name == "H_GET_TERM_CHAR":
		what = fmt.Sprintf("%d characters from unit 0x%x", e.After.R[4], r[4])
	default:
		what = fmt.Sprintf("r4 0x%x, r5 0x%x, r6 0x%x", r[4], r[5], r[6])
	}
	return fmt.Sprintf("%s: %s: %v", e.Name, what, e.Status)
}

// String returns the call as a line of words, such as
//
//	rtas get-power-level(0xffffffff): success, 0x64
func (e *RTASEvent) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "rtas %s(%s): %v", e.Service, hexList(e.Args), e.Status)
	if len(e.Results) > 0 {
		s.WriteString(", " + hexList(e.Results))
	}
	return s.String()
}

func hexList(words []uint32) string {
	var s []string
	for _, v := range words {
		s = append(s, fmt.Sprintf("0x%x", v))
	}
	return strings.Join(s, ", ")
}
