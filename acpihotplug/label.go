package acpihotplug

// A slot's _DSM tells the acpi-index of its device, as the PCI Firmware
// Specification 3.1, section 4.6.7, has devices labelled: Linux names a network
// interface by it, eno5 for index 5.

// labelUUID is e5c937d0-3553-4d7a-9117-ea4d19c3434d as AML stores it: the
// first three groups in little-endian order.
var labelUUID = []byte{
	0xd0, 0x37, 0xc9, 0xe5, 0x53, 0x35, 0x7a, 0x4d,
	0x91, 0x17, 0xea, 0x4d, 0x19, 0xc3, 0x43, 0x4d,
}

// Of the labelling interface: its revision, and its functions.
const (
	labelRevision  = 2
	labelFunctions = 0 // which functions there are, one bit each
	labelName      = 7 // the index and a name, which is empty here
)

// indexMethods declares what the slots' _DSM calls: PCIX tells the index of
// a slot's device, 0 if it has none; PCDS answers for a slot, with the first
// three arguments of _DSM behind those of at.
func (s *SSDT) indexMethods() []byte {
	args, where := 1, arg(0)
	if s.Mode == ClearOnRead {
		args, where = 2, term(arg(0), arg(1))
	}
	slot, uuid, revision, function := arg(args-1), arg(args), arg(args+1), arg(args+2)
	index, answer := local(0), local(1)
	nothing := ret(buffer([]byte{0}))
	return term(
		method("PCIX", args,
			s.locked(
				s.selectBus(arg(0)),
				store(shiftLeft(num(1), slot), name("PIDX")),
				store(name("PIDX"), index),
			),
			// All ones: a block without the register. Written as it is, the
			// number would be Ones to a compiler, whose width is the DSDT's.
			ifTrue(less(num(0xfffffffe), index), ret(num(0))),
			ret(index),
		),
		method("PCDS", args+3,
			ifTrue(not(equal(uuid, buffer(labelUUID))), nothing),
			ifTrue(less(revision, num(labelRevision)), nothing),
			store(call("PCIX", where), index),
			ifTrue(not(index), nothing),
			ifTrue(equal(function, num(labelFunctions)), ret(buffer([]byte{1<<labelFunctions | 1<<labelName}))),
			ifTrue(equal(function, num(labelName)),
				store(pair(num(0), text("")), answer),
				store(index, element(answer, num(0))),
				ret(answer),
			),
			nothing,
		),
	)
}

// labelMethod declares a slot's _DSM.
func (s *SSDT) labelMethod(sel uint32, slot int) []byte {
	return method("_DSM", 4, ret(call("PCDS", s.at(sel, slot), arg(0), arg(1), arg(2))))
}
