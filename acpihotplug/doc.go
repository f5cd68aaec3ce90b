// Package acpihotplug models the PCI hot-plug controller that QEMU's PC
// machines have and its firmware drives: a few registers in the I/O port
// space through which a guest learns that a device was plugged in or is to be
// removed, and ejects it. It also makes the ACPI table that has an operating
// system use them, and plays a guest for tests.
//
//	a cycle                       on the ports
//
//	VMM    Plug(0, 5)             GPE status bit 1, SCI
//	guest  \_GPE._E01             reads RegUp: bit 5; Notify(slot 5, Device Check)
//	...
//	VMM    RequestUnplug(0, 5)    GPE status bit 1, SCI
//	guest  \_GPE._E01             reads RegDown: bit 5; Notify(slot 5, Eject Request)
//	guest  slot 5's _EJ0          writes RegEject: bit 5
//	VMM    Eject(0, 5) is called  the slot is empty
//
// # Generations
//
// The text of 2012 ("QEMU<->ACPI BIOS PCI hotplug interface") says less than
// guests rely on, and QEMU changed what it does. Each generation is a [Mode]:
//
//	                     Latched             ClearOnRead          Level
//	equals               QEMU 2.0 and later  QEMU 2.0 and later   QEMU 1.1 to 1.7
//	                     with an old type*
//	RegUp shows          plugged, until      plugged, until read  present and
//	                     ejected             or ejected           removable
//	RegDown shows        asked for, until ejected, in all
//	RegEject ejects      the lowest slot written, in all; every one with EjectAll
//	RegSelect, buses     reads 0; one bus    256 buses            absent; one bus
//	RegIndex             since 6.0           since 6.0            absent
//
// * machine types up to pc-i440fx-1.7, and acpi-pci-hotplug-with-bridge-support=off.
//
// What holds for all of them was measured on QEMU 5.2, 7.2 and 10.0, of which
// none is of generation Level any more; the firmware of its time, SeaBIOS's own
// table, is run against a Device of it instead. Registers are accessed as aligned
// 32-bit words only, anything else in the block reads 0, writes nothing and
// has no side effect; to eject needs no request; eject ends what is pending
// for its slot, also for an empty or fixed one, and does not touch the GPE
// block; a Reset ejects what is asked for and keeps RegUp and RegSelect.
//
// # Capabilities
//
//	feature                               register model   SSDT    Guest
//	modes Latched, ClearOnRead, Level     yes              yes     yes
//	many buses, by selector               yes              yes     yes
//	slots that cannot be removed          yes              yes     yes
//	acpi-index                            yes              yes     yes
//	GPE block of 4 (i440fx), 16 (q35)     yes              FADT    yes
//
// The SSDT was run by Linux 6.1 in a real QEMU, in place of QEMU's own, on a
// root bus and behind a bridge: linux_test.go does it again. In ACPICA's
// interpreter it notifies, ejects and labels as the tables of QEMU 7.2 and of
// SeaBIOS do on the same registers.
//
// # Concurrency
//
// A Device and a Guest are not safe for concurrent use; serialise access as
// the VMM's device lock does. Nothing here starts a goroutine.
//
// # Security
//
// Any access is answered: none panics, fails, allocates or takes time that
// grows with what the guest does. A guest can eject only what the VMM placed
// in a slot and did not fix there. Snapshots may come from anywhere: every value of
// [State] is safe.
package acpihotplug
