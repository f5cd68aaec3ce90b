package libxlfmt_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"

	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/libxlfmt"
)

// The configuration of a domain saved by xl is changed, and the rest copied as
// it is.
func ExampleNewXLHeader() {
	r, err := libxlfmt.NewReader(saved("xl-saved-json"), nil) // or an *os.File
	if err != nil {
		log.Fatal(err)
	}
	c := r.Container()
	if c.Kind != libxlfmt.ContainerXL || !c.XL.JSON() {
		log.Fatal("not saved by xl with a configuration in JSON")
	}
	var config map[string]any
	if err := json.Unmarshal(c.XL.Config(), &config); err != nil {
		log.Fatal(err)
	}
	config["c_info"].(map[string]any)["name"] = "renamed"
	text, err := json.Marshal(config)
	if err != nil {
		log.Fatal(err)
	}
	c.XL = libxlfmt.NewXLHeader(text, true)

	var out bytes.Buffer
	h, _ := r.Header()
	w, err := libxlfmt.NewWriter(&out, &libxlfmt.WriterOptions{Container: c, BigEndian: h.BigEndian(), Legacy: h.Legacy()})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := libxlfmt.Copy(w, r); err != nil {
		log.Fatal(err)
	}
	if err := w.Close(); err != nil {
		log.Fatal(err)
	}

	if r, err = libxlfmt.NewReader(&out, nil); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", r.Container().XL.Config())
	// Output: {"c_info":{"name":"renamed","type":"hvm"}}
}

// A parameter of a saved domain is changed in place, and its memory read.
func ExampleOpen() {
	all, err := io.ReadAll(saved("xl-saved-json"))
	if err != nil {
		log.Fatal(err)
	}
	f := memfile.FromBytes(all) // in memory: an *os.File does as well
	x, err := libxlfmt.Open(f, nil)
	if err != nil {
		log.Fatal(err)
	}
	for i, rec := range x.Records() {
		if rec.Type != libxlfmt.TypeHVMParams {
			continue
		}
		body, err := x.Decode(i)
		if err != nil {
			log.Fatal(err)
		}
		params := body.(libxlfmt.HVMParams)
		params[0].Value = 0x1000
		if err := x.Replace(f, i, params); err != nil {
			log.Fatal(err)
		}
		body, err = x.Decode(i)
		if err != nil {
			log.Fatal(err)
		}
		p := body.(libxlfmt.HVMParams)[0]
		fmt.Printf("%s = %#x\n", p.Name(), p.Value)
	}

	memory, err := x.Memory(nil)
	if err != nil {
		log.Fatal(err)
	}
	word := make([]byte, 4)
	if _, err := memory.ReadAt(word, 0); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d bytes of memory, the first are %x\n", memory.Size(), word)
	// Output:
	// STORE_PFN = 0x1000
	// 327680 bytes of memory, the first are 21c13dcf
}
