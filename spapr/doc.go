// Package spapr answers the hypercalls by which the firmware of a pseries
// (sPAPR) PowerPC guest has QEMU work for it: H_RTAS, which carries the
// platform's run-time services, H_LOGICAL_MEMOP, which moves memory, and the
// calls around them that firmware uses in real mode. It models no processor:
// a VMM, an emulator or a test hands over registers and guest memory.
//
//	r3 = call, r4... = arguments
//	        |
//	   Machine.Call ---- Register: calls of the VMM's own
//	        |
//	        +-- H_LOGICAL_MEMOP   r4 to, r5 from, r6 log2 size, r7 count, r8 operation
//	        +-- H_LOGICAL_CI_LOAD ...
//	        +-- H_RTAS            r4 -> token | nargs | nret | args ... | results ...
//	                                     |
//	                                  Services ---- Register: services of the VMM's own
//
// # Behaviour
//
// The default is what QEMU 7.2 does, compared call by call; 5.2 and 10.0 were
// measured to answer the recorded calls alike. [Strict] has the text instead
// where the two differ:
//
//	                          QEMU, the default                 strictly
//	memop's operation 1       stores the complement             StrictXOR: exclusive or
//	addresses outside memory  read zeros, drop writes, success  StrictMemory: H_PARAMETER
//	elements above 8 bytes    fine, if there are none           StrictSize: H_PARAMETER
//	nanoseconds of the clock  low 32 bits of all of them        StrictClock: below 1e9
//
// H_RTAS takes what QEMU takes in both: a block at any address, whose four
// highest bits do not count; results after as many arguments as it says, where
// the bytes of these are counted in 32 bits; a status that is always written,
// even if the guest asked for no result. An unknown token is H_PARAMETER, and
// status -3.
//
// # Capabilities
//
//	hypercalls    H_PAGE_INIT, H_LOGICAL_CI_LOAD and _STORE, H_LOGICAL_CACHE_LOAD
//	              and _STORE, H_LOGICAL_ICBI, H_LOGICAL_DCBF, H_GET_TERM_CHAR,
//	              H_PUT_TERM_CHAR, H_RTAS, H_LOGICAL_MEMOP
//	services      characters, time of day, power, CPUs, system parameters, power
//	              levels, indicators and sensors, NVRAM, PCI configuration space,
//	              interrupt sources, events: those that the VMM gives a hook for
//	firmware      the stub, the properties of /rtas, and tokens found in them
//	not modelled  page tables, interrupt presentation, virtual I/O, dynamic
//	              reconfiguration: register calls and services for them
//
// # Concurrency
//
// A Machine is not safe for concurrent use; serialise access as the VMM's
// device lock does. A [Services] may be shared by Machines once it no longer
// changes. Nothing here starts a goroutine.
//
// # Security
//
// Registers, memory and parameter blocks are the guest's, who may be hostile.
// No call panics, fails towards the VMM, or touches what [Memory] does not
// hold. One call does at most the work of MemopLimit bytes moved, or of the
// size of NVRAM, and allocates nothing that grows with what the guest says.
package spapr
