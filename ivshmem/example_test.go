package ivshmem_test

import (
	"encoding/binary"
	"fmt"

	"github.com/virtfmt/virtfmt/ivshmem"
)

// Two devices in one process share memory and ring each other, told as their
// guests see it.
func Example() {
	memory := make([]byte, 1<<20)
	peers := make([]*ivshmem.Device, 2)
	for id := range peers {
		peers[id] = &ivshmem.Device{
			State:   ivshmem.State{ID: uint16(id)},
			Config:  ivshmem.Config{Vectors: 2, SharedSize: uint64(len(memory))},
			Memory:  memory,
			Ring:    func(peer, vector uint16) { peers[peer].Interrupt(vector) },
			SendMSI: func(addr uint64, data uint32) { fmt.Printf("guest %d: interrupt, message %#x\n", id, data) },
		}
	}

	// Guest 1 aims vector 0, unmasks it, and enables MSI-X and bus mastering.
	guest := peers[1]
	guest.WriteMSIX(0, binary.LittleEndian.AppendUint64(nil, 0xfee00000))
	guest.WriteMSIX(8, binary.LittleEndian.AppendUint64(nil, 0x41))
	guest.WriteConfig(0x42, []byte{0x00, 0x80})
	guest.WriteConfig(0x04, []byte{0x06, 0x00})

	// Guest 0 leaves a word in the shared memory and rings the doorbell.
	peers[0].WriteBAR(2, 0x100, []byte("hello"))
	peers[0].Write(ivshmem.RegDoorbell, binary.LittleEndian.AppendUint32(nil, ivshmem.DoorbellValue(1, 0)))

	word := make([]byte, 5)
	guest.ReadBAR(2, 0x100, word)
	fmt.Printf("guest 1: reads %q\n", word)
	// Output:
	// guest 1: interrupt, message 0x41
	// guest 1: reads "hello"
}

// A trace tells what a guest does in words.
func ExampleTraceEvent() {
	d := &ivshmem.Device{Config: ivshmem.Config{Vectors: 1}}
	d.Ring = func(_, vector uint16) { d.Interrupt(vector) }
	d.Trace = func(e ivshmem.TraceEvent) { fmt.Println(e) }

	d.Write(ivshmem.RegDoorbell, []byte{0, 0, 0, 0})
	d.Read(ivshmem.RegIntrStatus, make([]byte, 4))
	// Output:
	// write BAR0+0xc, 4 bytes: Doorbell = 0x0
	// ring peer 0, vector 0
	// vector 0: lost
	// read BAR0+0x4, 4 bytes: Interrupt Status = 0x0
}
