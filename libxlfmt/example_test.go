package libxlfmt_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"

	"github.com/virtfmt/virtfmt/libxlfmt"
)

// saved returns a saved domain from testdata.
func saved(name string) io.Reader {
	all, err := loadVectors()
	if err != nil {
		log.Fatal(err)
	}
	for _, v := range all {
		if v.Name == name {
			return bytes.NewReader(v.data)
		}
	}
	log.Fatal("no such stream")
	return nil
}

func Example() {
	r, err := libxlfmt.NewReader(saved("converted-by-script"), nil)
	if err != nil {
		log.Fatal(err)
	}
	for {
		rec, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%#6x %v %v, %d bytes\n", rec.Offset, rec.Type.Layer(), rec.Type, rec.Length)
	}
	// Output:
	//   0x10 libxl LIBXC_CONTEXT, 0 bytes
	//   0x40 libxc STATIC_DATA_END, 0 bytes
	//   0x48 libxc PAGE_DATA, 4112 bytes
	// 0x1060 libxc X86_TSC_INFO, 24 bytes
	// 0x1080 libxc HVM_PARAMS, 72 bytes
	// 0x10d0 libxc HVM_CONTEXT, 385 bytes
	// 0x1260 libxc END, 0 bytes
	// 0x1268 libxl EMULATOR_CONTEXT, 28 bytes
	// 0x1290 libxl END, 0 bytes
}

func ExampleReader_Decode() {
	r, err := libxlfmt.NewReader(saved("xl-saved-json"), nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", r.Container().XL.Config())
	for {
		rec, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			log.Fatal(err)
		}
		switch rec.Type {
		case libxlfmt.TypeHVMParams, libxlfmt.TypeXenstore:
			body, err := r.Decode()
			if err != nil {
				log.Fatal(err)
			}
			switch b := body.(type) {
			case libxlfmt.HVMParams:
				for _, p := range b {
					fmt.Printf("%s = %#x\n", p.Name(), p.Value)
				}
			case libxlfmt.Xenstore:
				for _, p := range b.Pairs {
					fmt.Printf("%s = %s\n", p.Key, p.Value)
				}
			}
		}
	}
	// Output:
	// {"c_info": {"type": "hvm", "name": "oracle"}}
	// STORE_PFN = 0xfeffc
	// IOREQ_PFN = 0xfeffd
	// CONSOLE_PFN = 0xfeffe
	// IDENT_PT = 0xff000000
	// physmap/1f1000000/start_addr = f0000000
	// physmap/1f1000000/size = 1000000
	// physmap/1f1000000/name = vga.vram
}

func ExampleReader_Pages() {
	r, err := libxlfmt.NewReader(saved("pv32"), nil)
	if err != nil {
		log.Fatal(err)
	}
	count := map[libxlfmt.PageType]int{}
	for {
		rec, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			log.Fatal(err)
		}
		if rec.Type != libxlfmt.TypePageData {
			continue
		}
		for page, err := range r.Pages() {
			if err != nil {
				log.Fatal(err)
			}
			count[page.Type]++
		}
	}
	fmt.Println("normal:", count[libxlfmt.PageNormal], "pinned L3 tables:", count[libxlfmt.PageL3Pinned])
	// Output: normal: 1 pinned L3 tables: 1
}

func ExampleVerify() {
	res, err := libxlfmt.Verify(context.Background(), saved("draft-b-xenstore"), nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("ok:", res.OK())
	for _, f := range res.Findings {
		fmt.Printf("%#x %s: %s\n", f.Offset, f.Field, f.Detail)
	}
	// Output:
	// ok: false
	// 0x13398 libxl EMULATOR_XENSTORE_DATA: no emulator id before the keys, as in Draft B
}

func ExampleWriter() {
	var b bytes.Buffer
	w, err := libxlfmt.NewWriter(&b, &libxlfmt.WriterOptions{
		Container: libxlfmt.Container{
			Kind: libxlfmt.ContainerXL,
			XL:   libxlfmt.NewXLHeader([]byte(`{"c_info":{"name":"guest"}}`), true),
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := w.StartLibxc(libxlfmt.LibxcHeader{Type: libxlfmt.HVM, XenMajor: 4, XenMinor: 17}); err != nil {
		log.Fatal(err)
	}
	for _, body := range []libxlfmt.Body{
		libxlfmt.Mark(libxlfmt.TypeStaticDataEnd),
		libxlfmt.PageBatch{
			Entries: []libxlfmt.PageEntry{libxlfmt.NewPageEntry(0, libxlfmt.PageNormal)},
			Data:    make([]byte, 4096),
		},
		libxlfmt.HVMParams{{Index: 1, Value: 0xfeffc}},
		libxlfmt.Mark(libxlfmt.TypeLibxcEnd),
		libxlfmt.EmulatorState{Emulator: libxlfmt.Emulator{ID: libxlfmt.EmulatorQemu}, State: []byte("QEVM")},
	} {
		if err := w.Put(body); err != nil {
			log.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		log.Fatal(err)
	}
	res, err := libxlfmt.Verify(context.Background(), &b, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(res.OK(), res.Length, "bytes,", res.Records, "records")
	// Output: true 4344 bytes, 7 records
}

func ExampleCopy() {
	r, err := libxlfmt.NewReader(saved("hvm-xs-emu"), nil)
	if err != nil {
		log.Fatal(err)
	}
	w, err := libxlfmt.NewWriter(io.Discard, &libxlfmt.WriterOptions{
		Container: libxlfmt.Container{Kind: libxlfmt.ContainerXenopsd},
	})
	if err != nil {
		log.Fatal(err)
	}
	dropped, err := libxlfmt.Copy(w, r)
	if err != nil {
		log.Fatal(err)
	}
	for _, rec := range dropped {
		fmt.Println("xenopsd has no place for", rec.Type)
	}
	// Output: xenopsd has no place for EMULATOR_XENSTORE_DATA
}
