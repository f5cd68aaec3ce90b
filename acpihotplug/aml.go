package acpihotplug

import (
	"encoding/binary"
	"slices"
	"strings"
)

// This file encodes the part of the ACPI machine language that the table
// needs: ACPI 6.4, section 20.2. Each function returns the bytes of one term.
// A name is a path such as \_SB.PCI0; see validPath.

// Opcodes, ACPI 6.4 section 20.3. Two bytes are an extended opcode.
var (
	opName       = []byte{0x08}
	opScope      = []byte{0x10}
	opString     = []byte{0x0d}
	opBuffer     = []byte{0x11}
	opPackage    = []byte{0x12}
	opMethod     = []byte{0x14}
	opStore      = []byte{0x70}
	opShiftLeft  = []byte{0x79}
	opShiftRight = []byte{0x7a}
	opAnd        = []byte{0x7b}
	opNotify     = []byte{0x86}
	opIndex      = []byte{0x88}
	opNot        = []byte{0x92}
	opEqual      = []byte{0x93}
	opLess       = []byte{0x95}
	opIf         = []byte{0xa0}
	opReturn     = []byte{0xa4}
	opMutex      = []byte{0x5b, 0x01}
	opAcquire    = []byte{0x5b, 0x23}
	opRelease    = []byte{0x5b, 0x27}
	opRegion     = []byte{0x5b, 0x80}
	opField      = []byte{0x5b, 0x81}
	opDevice     = []byte{0x5b, 0x82}
)

// Address spaces of operation regions.
const (
	spaceIO  = 1
	spacePCI = 2
)

// Flags of fields, ACPI 6.4 section 20.2.5.2.
const (
	accWord      = 2
	accDWord     = 3
	writeAsZeros = 2 << 5
)

// Operands: no target, the first local variable and argument, and a timeout
// that never ends.
const (
	noTarget    = 0x00
	local0      = 0x60
	arg0        = 0x68
	waitForever = 0xffff
)

// term joins the parts of a term: an opcode and its operands.
func term(parts ...[]byte) []byte { return slices.Concat(parts...) }

// pkgLength encodes n in 1 to 4 bytes: the two highest bits of the first say
// how many follow. Preconditions: 0 <= n < 1<<28.
func pkgLength(n int) []byte {
	if n < 1<<6 {
		return []byte{byte(n)}
	}
	b := []byte{byte(n & 0xf)}
	for n >>= 4; n > 0; n >>= 8 {
		b = append(b, byte(n))
	}
	b[0] |= byte(len(b)-1) << 6
	return b
}

// pkg encodes a term that holds others: its length, which counts itself,
// stands between opcode and body.
func pkg(op []byte, body ...[]byte) []byte {
	b := term(body...)
	n := len(b) + 1
	for len(pkgLength(n)) != n-len(b) {
		n++
	}
	return term(op, pkgLength(n), b)
}

// segment pads a name segment to its four bytes.
func segment(s string) string { return (s + "____")[:4] }

// name encodes a path: absolute, or relative to the scope or (^) to the one
// around it. Preconditions: its segments are as in validPath.
func name(path string) []byte {
	rest := strings.TrimLeft(path, `\^`)
	b := []byte(path[:len(path)-len(rest)])
	segments := strings.Split(rest, ".")
	switch len(segments) {
	case 1:
	case 2:
		b = append(b, 0x2e)
	default:
		b = append(b, 0x2f, byte(len(segments)))
	}
	for _, s := range segments {
		b = append(b, segment(s)...)
	}
	return b
}

// validPath reports whether path names an object from the root: a backslash
// and segments between dots, each of 1 to 4 capitals, digits and underscores,
// the first no digit.
func validPath(path string) bool {
	rest, rooted := strings.CutPrefix(path, `\`)
	segments := strings.Split(rest, ".")
	if !rooted || len(segments) > 254 {
		return false
	}
	for _, s := range segments {
		if len(s) < 1 || len(s) > 4 || s[0] >= '0' && s[0] <= '9' {
			return false
		}
		if strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") != "" {
			return false
		}
	}
	return true
}

// num encodes an integer in the fewest bytes.
func num(v uint64) []byte {
	switch {
	case v <= 1:
		return []byte{byte(v)}
	case v < 1<<8:
		return []byte{0x0a, byte(v)}
	case v < 1<<16:
		return binary.LittleEndian.AppendUint16([]byte{0x0b}, uint16(v))
	case v < 1<<32:
		return binary.LittleEndian.AppendUint32([]byte{0x0c}, uint32(v))
	}
	return binary.LittleEndian.AppendUint64([]byte{0x0e}, v)
}

func local(n int) []byte { return []byte{byte(local0 + n)} }
func arg(n int) []byte   { return []byte{byte(arg0 + n)} }

func scope(path string, body ...[]byte) []byte {
	return pkg(opScope, append([][]byte{name(path)}, body...)...)
}

func device(seg string, body ...[]byte) []byte {
	return pkg(opDevice, append([][]byte{name(seg)}, body...)...)
}

func method(seg string, args int, body ...[]byte) []byte {
	return pkg(opMethod, append([][]byte{name(seg), {byte(args)}}, body...)...)
}

func named(seg string, value []byte) []byte { return term(opName, name(seg), value) }

// region declares size bytes at off of an address space, and fields one after
// the other from its start that together name them.
func region(seg string, space byte, off, size uint64, access byte, fields ...[]byte) []byte {
	return term(
		opRegion, name(seg), []byte{space}, num(off), num(size),
		pkg(opField, append([][]byte{name(seg), {access}}, fields...)...),
	)
}

// bitField names the next n bits of a region.
func bitField(seg string, n int) []byte { return term(name(seg), pkgLength(n)) }

func ifTrue(condition []byte, body ...[]byte) []byte {
	return pkg(opIf, append([][]byte{condition}, body...)...)
}

func store(value, target []byte) []byte { return term(opStore, value, target) }
func shiftLeft(v, n []byte) []byte      { return term(opShiftLeft, v, n, []byte{noTarget}) }
func shiftRight(v, n []byte) []byte     { return term(opShiftRight, v, n, []byte{noTarget}) }
func and(a, b []byte) []byte            { return term(opAnd, a, b, []byte{noTarget}) }
func equal(a, b []byte) []byte          { return term(opEqual, a, b) }
func less(a, b []byte) []byte           { return term(opLess, a, b) }
func not(v []byte) []byte               { return term(opNot, v) }
func element(v, n []byte) []byte        { return term(opIndex, v, n, []byte{noTarget}) }
func ret(v []byte) []byte               { return term(opReturn, v) }
func notify(seg string, v []byte) []byte {
	return term(opNotify, name(seg), v)
}

// call invokes a method, or reads an object that takes no arguments.
func call(path string, args ...[]byte) []byte { return term(name(path), term(args...)) }

func mutex(seg string) []byte { return term(opMutex, name(seg), []byte{0}) }

// locked runs the body while it holds a mutex.
func locked(path string, body ...[]byte) []byte {
	return term(
		opAcquire, name(path), binary.LittleEndian.AppendUint16(nil, waitForever),
		term(body...),
		opRelease, name(path),
	)
}

func buffer(b []byte) []byte { return pkg(opBuffer, num(uint64(len(b))), b) }

func text(s string) []byte { return term(opString, []byte(s), []byte{0}) }

// pair encodes a package of two elements.
func pair(a, b []byte) []byte { return pkg(opPackage, []byte{2}, a, b) }

// eisaID encodes an identifier of three capitals and four hexadecimal digits
// in capitals, such as PNP0A06: ACPI 6.4 section 19.6.38.
func eisaID(id string) []byte {
	v := uint32(id[0]-'@')<<26 | uint32(id[1]-'@')<<21 | uint32(id[2]-'@')<<16
	for i, c := range id[3:] {
		v |= uint32(strings.IndexRune("0123456789ABCDEF", c)) << (12 - 4*i)
	}
	return binary.BigEndian.AppendUint32([]byte{0x0c}, v)
}
