package spapr

import (
	"encoding/binary"
	"fmt"
	"iter"
	"slices"
)

// The parameter block of H_RTAS, 0xf000: 32-bit words, big-endian also for a
// little-endian guest, at any address.
//
//	0  token     4  nargs     8  nret
//	12 nargs arguments, then nret results, the first of which is the status

const (
	rtasHeaderLen = 12
	// rtasEarlyToken prints a character before the firmware knows the tokens.
	rtasEarlyToken = 0xa
	// realMask takes off what QEMU takes off the address of each word of the
	// block: the four highest bits, by which software marks real mode.
	realMask = 1<<60 - 1
)

// An RTASCall is a call of a service, with its parameter block in guest
// memory. The guest chose the counts, which need not be true: arguments and
// results are where they say, as far as that is memory.
type RTASCall struct {
	Machine *Machine
	Token   uint32
	NArgs   uint32
	NRet    uint32
	block   uint64 // address of the block, as the guest gave it
}

// Is reports whether the call has so many arguments and results.
func (c RTASCall) Is(nargs, nret uint32) bool { return c.NArgs == nargs && c.NRet == nret }

// Arg returns argument i, counted from 0, as it stands in memory now. What
// follows the arguments if there are not so many is no error.
func (c RTASCall) Arg(i int) uint32 {
	return c.Machine.load32(c.block + rtasHeaderLen + 4*uint64(i))
}

// SetResult writes result i, counted from 1: result 0 is the status that the
// service returns.
func (c RTASCall) SetResult(i int, v uint32) {
	c.Machine.store32(c.results()+4*uint64(i), v)
}

// results returns the address of the results. QEMU counts the bytes of the
// arguments in 32 bits, and so does this.
func (c RTASCall) results() uint64 { return c.block + rtasHeaderLen + uint64(4*c.NArgs) }

// Load fills p from a buffer that an argument points to.
func (c RTASCall) Load(addr uint32, p []byte) { c.Machine.load(uint64(addr), p) }

// Store writes p to a buffer that an argument points to.
func (c RTASCall) Store(addr uint32, p []byte) { c.Machine.store(uint64(addr), p) }

// load32 and store32 access a word of a parameter block.
func (m *Machine) load32(addr uint64) uint32 {
	p := m.scratch[0][:4]
	m.loadWhole(addr&realMask, p)
	return binary.BigEndian.Uint32(p)
}

func (m *Machine) store32(addr uint64, v uint32) {
	p := m.scratch[0][:4]
	binary.BigEndian.PutUint32(p, v)
	m.storeWhole(addr&realMask, p)
}

// callRTAS is H_RTAS: r4 is the address of the parameter block.
func (m *Machine) callRTAS(r *Regs) Status {
	block := r.R[4]
	if m.refuses(block&realMask, rtasHeaderLen) {
		return HParameter
	}
	c := RTASCall{Machine: m, Token: m.load32(block), NArgs: m.load32(block + 4), NRet: m.load32(block + 8), block: block}
	if words := uint64(c.NArgs) + max(uint64(c.NRet), 1); m.refuses(block&realMask, rtasHeaderLen+4*words) {
		return HParameter
	}
	status, result := HSuccess, RTASParameterError
	s, ok := m.services().find(c.Token)
	if ok {
		m.traceRTASArgs(s.name, c)
	} else {
		status = HParameter
	}
	if s.call != nil {
		result = s.call(c)
	}
	m.store32(c.results(), uint32(result)) // also where nret is 0
	m.traceRTASResults(c, result)
	return status
}

func (m *Machine) services() *Services {
	if m.Services == nil {
		return standardServices
	}
	return m.Services
}

// A Service carries out an RTAS call and returns its status. It writes other
// results with SetResult.
type Service func(c RTASCall) RTASStatus

// Services is a registry of RTAS services: name, token, and what the service
// does. It may be shared by Machines once it no longer changes.
type Services struct {
	entries []serviceEntry // in order of registration
	byToken map[uint32]int
	byName  map[string]int
}

type serviceEntry struct {
	name  string
	token uint32
	call  Service
	// there reports whether the machine has what the service needs; nil means
	// always.
	there func(*Machine) bool
}

// Register adds a service, or gives the one of that name another token and
// function. Tokens are the guest's way to name services: it learns them from
// the properties of /rtas. A nil call makes the token known, but its calls get
// RTASParameterError; such a service is not among the properties.
func (s *Services) Register(name string, token uint32, call Service) error {
	return s.register(serviceEntry{name: name, token: token, call: call})
}

func (s *Services) register(e serviceEntry) error {
	if s.byToken == nil {
		s.byToken, s.byName = make(map[uint32]int), make(map[string]int)
	}
	i, known := s.byName[e.name]
	if other, taken := s.byToken[e.token]; taken && !(known && other == i) {
		return fmt.Errorf("spapr: rtas token 0x%x is that of %s", e.token, s.entries[other].name)
	}
	if !known {
		i = len(s.entries)
		s.entries = append(s.entries, e)
	} else {
		delete(s.byToken, s.entries[i].token)
		s.entries[i] = e
	}
	s.byToken[e.token], s.byName[e.name] = i, i
	return nil
}

// SetToken gives the service of that name another token, such as those that an
// older QEMU had.
func (s *Services) SetToken(name string, token uint32) error {
	i, ok := s.byName[name]
	if !ok {
		return fmt.Errorf("spapr: no rtas service is called %q", name)
	}
	e := s.entries[i]
	e.token = token
	return s.register(e)
}

// Token returns the token of the service of that name.
func (s *Services) Token(name string) (token uint32, ok bool) {
	i, ok := s.byName[name]
	if !ok {
		return 0, false
	}
	return s.entries[i].token, true
}

// All returns names and tokens, in the order of registration.
func (s *Services) All() iter.Seq2[string, uint32] {
	return func(yield func(string, uint32) bool) {
		for _, e := range slices.Clone(s.entries) {
			if !yield(e.name, e.token) {
				return
			}
		}
	}
}

func (s *Services) find(token uint32) (serviceEntry, bool) {
	i, ok := s.byToken[token]
	if !ok && token == rtasEarlyToken {
		i, ok = s.byName["display-character"]
	}
	if !ok {
		return serviceEntry{}, false
	}
	return s.entries[i], true
}
