package migschema_test

import (
	"bytes"
	"fmt"
	"log"
	"os"

	"github.com/virtfmt/virtfmt/migschema"
)

// Write a stream with two pages of RAM, then read it event by event.
func Example() {
	var stream bytes.Buffer
	enc := migschema.NewEncoder(&stream, nil)
	enc.BeginFull("ram", 1, 0, 4)
	enc.RAMList(8192, []migschema.RAMBlock{{Name: "pc.ram", Len: 8192}})
	enc.EndSection()
	enc.BeginMin(1)
	enc.BeginBlock("pc.ram")
	enc.ZeroPage(0)
	enc.FullPage(4096, bytes.Repeat([]byte("guest"), 820)[:4096])
	enc.EndBlock()
	enc.EndSection()
	if err := enc.Close(); err != nil { // tells of the first error of all
		log.Fatal(err)
	}

	dec := migschema.NewDecoder(&stream, &migschema.DecoderOptions{Validate: true})
	for ev, err := range dec.Events() {
		if err != nil {
			log.Fatal(err)
		}
		switch ev.Kind {
		case migschema.EventRAMList:
			fmt.Println(ev.Blocks[0].Name, ev.Blocks[0].Len)
		case migschema.EventPage:
			fmt.Println(ev.Page.Block, ev.Page.Addr, ev.Page.Kind, len(ev.Page.Data))
		}
	}
	// Output:
	// pc.ram 8192
	// pc.ram 0 zero 0
	// pc.ram 4096 full 4096
}

func ExampleUnmarshal() {
	var sec migschema.Section
	err := migschema.Unmarshal([]byte("\x7f\x81\x53\x07\x02\x01\x02\x7f\xcc\x52\x00"), &sec, nil)
	fmt.Println(err)
	// Output: migschema: Sections.min.secendmark at 0xb: missing-component
}

func ExampleAppendJSON() {
	state := migschema.VMState{migschema.NewInt(-1), migschema.Bool(true), migschema.OldBlob{0xca, 0xfe}}
	j, err := migschema.AppendJSON(nil, state)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(j))
	// Output: {"vmstateentries":[{"int":-1},{"bool":true},{"oldblob":"cafe"}]}
}

// Convert what QEMU sends to BER and back.
func ExampleToBER() {
	classic, err := os.ReadFile("testdata/none.mig")
	if err != nil {
		log.Fatal(err)
	}
	var ber, back bytes.Buffer
	report, err := migschema.ToBER(&ber, bytes.NewReader(classic), &migschema.ConvertOptions{Form: migschema.DER, Typed: true})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(classic), "octets become", ber.Len(), "with", report.Typed, "typed devices")
	if _, err := migschema.ToClassic(&back, bytes.NewReader(ber.Bytes()), nil); err != nil {
		log.Fatal(err)
	}
	fmt.Println("the same again:", bytes.Equal(back.Bytes(), classic))
	// Output:
	// 747 octets become 799 with 2 typed devices
	// the same again: true
}

// Tell all that is in a stream of either format.
func ExampleDump() {
	f, err := os.Open("testdata/none.mig")
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	for l, err := range migschema.Dump(f, nil) {
		if err != nil {
			log.Fatal(err)
		}
		if l.Section == "timer" {
			fmt.Printf("%#x %s %v\n", l.Offset, l.Path, l.Value)
		}
	}
	// Output:
	// 0x49 timer timer
	// 0x49 timer.sectionid 0
	// 0x49 timer.instanceid 0
	// 0x49 timer.versionid 2
	// 0x5c timer.cpu_ticks_offset 0
	// 0x64 timer.unused [0 0 0 0 0 0 0 0]
	// 0x6c timer.cpu_clock_offset 0
	// 0x74 timer.footer 0
}

// Take the memory of the guest out of a stream.
func ExampleReadRAM() {
	var stream bytes.Buffer
	enc := migschema.NewEncoder(&stream, nil)
	enc.BeginFull("ram", 1, 0, 4)
	enc.RAMList(8192, []migschema.RAMBlock{{Name: "pc.ram", Len: 8192}})
	enc.EndSection()
	enc.BeginMin(1)
	enc.BeginBlock("pc.ram")
	enc.FullPage(4096, bytes.Repeat([]byte("guest"), 820)[:4096])
	enc.EndBlock()
	enc.EndSection()
	if err := enc.Close(); err != nil {
		log.Fatal(err)
	}

	image, err := os.CreateTemp("", "ram")
	if err != nil {
		log.Fatal(err)
	}
	defer os.Remove(image.Name())
	defer image.Close()
	ram, err := migschema.ReadRAM(image, &stream, nil, &migschema.RAMOptions{Sparse: true})
	if err != nil {
		log.Fatal(err)
	}
	for e := range ram.Extents("pc.ram") {
		fmt.Println(e.Start, e.Length, e.Kind)
	}
	page := make([]byte, 5)
	image.ReadAt(page, 4096)
	fmt.Printf("%s\n", page)
	// Output:
	// 0 4096 unallocated
	// 4096 4096 data
	// guest
}

// Change a page of the guest's memory: records pass from a Reader to a Writer,
// which writes the others octet for octet as they were.
func ExampleWriter() {
	var stream bytes.Buffer
	w := migschema.NewWriter(&stream, nil)
	for _, rec := range []migschema.Record{
		{Kind: migschema.RecordStart, Name: "ram", ID: 2, Version: 4},
		{Kind: migschema.RecordRAMList, Total: 8192, Blocks: []migschema.RAMBlock{{Name: "pc.ram", Len: 8192}}},
		{Kind: migschema.RecordRAMEnd},
		{Kind: migschema.RecordFooter, ID: 2},
		{Kind: migschema.RecordEnd, ID: 2},
		{Kind: migschema.RecordPage, Page: migschema.Page{Kind: migschema.PageZero, Block: "pc.ram", Addr: 0}},
		{Kind: migschema.RecordPage, Page: migschema.Page{Kind: migschema.PageZero, Block: "pc.ram", Addr: 4096}},
		{Kind: migschema.RecordRAMEnd},
		{Kind: migschema.RecordFooter, ID: 2},
		{Kind: migschema.RecordEOF},
	} {
		if err := w.Write(&rec); err != nil {
			log.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		log.Fatal(err)
	}

	var changed bytes.Buffer
	w = migschema.NewWriter(&changed, nil)
	for rec, err := range migschema.NewReader(&stream, nil).Records() {
		if err != nil {
			log.Fatal(err)
		}
		// A page can come more than once: the last one counts.
		if p := &rec.Page; rec.Kind == migschema.RecordPage && p.Block == "pc.ram" && p.Addr == 4096 {
			p.Kind, p.Data = migschema.PageFull, bytes.Repeat([]byte("new!"), 1024)
		}
		if err := w.Write(rec); err != nil {
			log.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		log.Fatal(err)
	}
	stats, err := migschema.ReadStats(&changed, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(stats.Blocks[0].Zero, "zero page,", stats.Blocks[0].Full, "full page")
	// Output: 1 zero page, 1 full page
}

// Show the state of a device with the names of its fields.
func ExampleStructDesc_Values() {
	f, err := os.Open("testdata/none.mig")
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	r := migschema.NewReader(f, nil)
	for rec, err := range r.Records() {
		if err != nil {
			log.Fatal(err)
		}
		if rec.Kind != migschema.RecordState || rec.Name != "timer" {
			continue
		}
		desc := r.Device() // nil where the stream does not describe the device
		for v, err := range desc.Values(rec.Data) {
			if err != nil {
				log.Fatal(err)
			}
			fmt.Printf("%s (%s) %x\n", v.Path, v.Type, v.Data)
		}
	}
	// Output:
	// cpu_ticks_offset (int64) 0000000000000000
	// unused (unused_buffer) 0000000000000000
	// cpu_clock_offset (int64) 0000000000000000
}

// List the devices of a stream of either format.
func ExampleReadStats() {
	f, err := os.Open("testdata/none.mig")
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	stats, err := migschema.ReadStats(f, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(stats.Format, stats.Machine, stats.Octets, "octets")
	for _, d := range stats.Devices {
		fmt.Printf("%s, version %d: %d octets\n", d.Name, d.Version, d.Octets)
	}
	// Output:
	// classic none 747 octets
	// timer, version 2: 48 octets
	// globalstate, version 1: 134 octets
}
