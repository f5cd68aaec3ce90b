package spapr_test

import (
	"fmt"
	"time"

	"github.com/virtfmt/virtfmt/spapr"
)

// console is a terminal that prints.
type console struct{}

func (console) Put(p []byte) bool { fmt.Printf("guest says %q\n", p); return true }
func (console) Get([]byte) int    { return 0 }

// A machine with memory, a console and a clock, and what a guest asks of it.
func Example() {
	ram := make([]byte, 1<<20)
	m := &spapr.Machine{
		Memory:   spapr.RAM{Data: ram},
		Terminal: func(unit uint64) spapr.Terminal { return console{} },
		Clock:    func() time.Time { return time.Date(2012, 9, 5, 12, 0, 0, 0, time.UTC) },
		PowerOff: func() { fmt.Println("power off") },
	}
	guest := spapr.Guest{Call: m.Call, Memory: m.Memory, Block: 0x1000, Token: spapr.TokenOf(m.Properties(0))}

	status, now, err := guest.RTAS("get-time-of-day", 8)
	fmt.Println(status, now[:6], err)
	guest.RTAS("display-character", 1, 'A')
	guest.RTAS("power-off", 1, 0, 0)
	// Output:
	// success [2012 9 5 12 0 0] <nil>
	// guest says "A"
	// power off
}

// A hypercall as a VM exit hands it over: firmware inverts 16 bytes of its
// frame buffer.
func ExampleMachine_Call() {
	ram := make([]byte, 0x1000)
	m := &spapr.Machine{Memory: spapr.RAM{Data: ram}}
	var r spapr.Regs
	r.R[3] = spapr.HLogicalMemop
	r.R[4], r.R[5] = 0x100, 0x100
	r.R[6], r.R[7] = 3, 2 // two elements of 8 bytes
	r.R[8] = spapr.MemopNot
	fmt.Println(m.Call(&r))
	fmt.Printf("%x\n", ram[0xff:0x111])
	// Output:
	// H_SUCCESS
	// 00ffffffffffffffffffffffffffffffff00
}

// A VMM adds a hypercall and a service of its own.
func ExampleMachine_Register() {
	m := &spapr.Machine{
		Memory:   spapr.RAM{Data: make([]byte, 0x1000)},
		Services: spapr.StandardServices(),
	}
	m.Register(0xf100, "H_ANSWER", func(m *spapr.Machine, r *spapr.Regs) spapr.Status {
		r.R[4] = 42
		return spapr.HSuccess
	})
	m.Services.Register("vendor,sum", 0x3000, func(c spapr.RTASCall) spapr.RTASStatus {
		if !c.Is(2, 2) {
			return spapr.RTASParameterError
		}
		c.SetResult(1, c.Arg(0)+c.Arg(1))
		return spapr.RTASSuccess
	})
	guest := spapr.Guest{Call: m.Call, Memory: m.Memory, Token: m.Services.Token}
	status, r := guest.Hypercall(0xf100)
	fmt.Println(status, r.R[4])
	fmt.Println(guest.RTAS("vendor,sum", 2, 40, 2))
	// Output:
	// H_SUCCESS 42
	// success [42] <nil>
}

// What firmware puts into the device tree's node /rtas.
func ExampleMachine_Properties() {
	m := &spapr.Machine{}
	for _, p := range m.Properties(0x2fff0000)[4:9] {
		fmt.Printf("%s %x\n", p.Name, p.Value)
	}
	fmt.Printf("stub %x\n", spapr.RTASStub())
	// Output:
	// rtas-size 00000014
	// linux,rtas-base 2fff0000
	// linux,rtas-entry 2fff0000
	// display-character 00002000
	// get-time-of-day 00002001
	// stub 7c641b783c6000006063f000440000224e800020
}
