package migschema_test

import (
	"bytes"
	"fmt"
	"log"

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
