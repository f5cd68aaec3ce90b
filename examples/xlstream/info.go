package main

import (
	"fmt"
	"os"

	"github.com/virtfmt/virtfmt/libxlfmt"
)

// An info is what info tells.
type info struct {
	Container string            `json:"container"`
	Config    string            `json:"config,omitempty"`
	Libxl     *layerInfo        `json:"libxl"`
	Libxc     *layerInfo        `json:"libxc"`
	Size      int64             `json:"size"`
	Trailing  int64             `json:"trailing"`
	End       string            `json:"end"`
	Error     string            `json:"error,omitempty"`
	Records   map[string]int    `json:"records"`
	Memory    *memoryInfo       `json:"memory"`
	Guest     string            `json:"guest,omitempty"`
	VCPUs     int               `json:"vcpus"`
	Params    map[string]uint64 `json:"params,omitempty"`
	Emulators []emulatorInfo    `json:"emulators"`
	Xenstore  map[string]string `json:"xenstore,omitempty"`
	order     []string          // of Records
}

type layerInfo struct {
	Version   uint32 `json:"version"`
	BigEndian bool   `json:"big_endian"`
	Legacy    bool   `json:"legacy,omitempty"`
	Domain    string `json:"domain,omitempty"`
	Xen       string `json:"xen,omitempty"`
}

type memoryInfo struct {
	Size  int64            `json:"size"`
	Pages map[string]int64 `json:"pages"` // by type
	Bytes int64            `json:"bytes"` // with contents
}

type emulatorInfo struct {
	ID     string `json:"id"`
	Index  uint32 `json:"index"`
	Length int64  `json:"length"`
}

func (p *program) info(args []string) error {
	args, err := p.parse(args, 1, 1)
	if err != nil {
		return err
	}
	f, err := os.Open(args[0])
	if err != nil {
		return err
	}
	defer f.Close()
	x, err := index(f)
	if err != nil {
		return err
	}
	in := gather(x)
	if p.json {
		err = p.printJSON(in)
	} else {
		err = p.printInfo(in)
	}
	if err == nil && x.Err() != nil {
		return errBad
	}
	return err
}

func gather(x *libxlfmt.Index) *info {
	in := &info{
		Container: x.Container().Kind.String(), Size: x.Size(), Trailing: x.Trailing(), End: x.End().String(),
		Records: map[string]int{}, Emulators: []emulatorInfo{}, Params: map[string]uint64{}, Xenstore: map[string]string{},
	}
	switch c := x.Container(); c.Kind {
	case libxlfmt.ContainerXL:
		in.Config = string(c.XL.Config())
	case libxlfmt.ContainerLibvirt:
		in.Config = string(c.Libvirt.XML)
	}
	h, ok := x.Header()
	if !ok && x.Err() != nil && x.Container().Kind == libxlfmt.ContainerNone {
		in.Container = "unknown"
	}
	if ok {
		in.Libxl = &layerInfo{Version: h.Version, BigEndian: h.BigEndian(), Legacy: h.Legacy()}
	}
	if h, ok := x.Libxc(); ok {
		in.Libxc = &layerInfo{Version: h.Version, BigEndian: h.BigEndian(), Domain: h.Type.String(),
			Xen: fmt.Sprintf("%d.%d", h.XenMajor, h.XenMinor)}
	}
	if x.Err() != nil {
		in.Error = x.Err().Error()
	}
	for i, rec := range x.Records() {
		name := rec.Type.Layer().String() + " " + rec.Type.String()
		if in.Records[name]++; in.Records[name] == 1 {
			in.order = append(in.order, name)
		}
		in.record(x, i, rec)
	}
	if m, err := x.Memory(nil); err == nil {
		in.Memory = &memoryInfo{Size: m.Size(), Pages: map[string]int64{}}
		for r := range m.Runs() {
			in.Memory.Pages[r.Type.String()] += int64(r.Count)
			if r.Type.HasData() {
				in.Memory.Bytes += int64(r.Count) << 12
			}
		}
	}
	return in
}

// record takes what info tells of a single record.
func (in *info) record(x *libxlfmt.Index, i int, rec libxlfmt.Record) {
	switch rec.Type {
	case libxlfmt.TypePVInfo, libxlfmt.TypeHVMParams, libxlfmt.TypeXenstore, libxlfmt.TypeVCPUBasic, libxlfmt.TypeHVMContext:
		body, err := x.Decode(i)
		if err != nil {
			return
		}
		in.body(body)
	case libxlfmt.TypeEmulator:
		var head [8]byte
		if _, err := x.Body(i).ReadAt(head[:], 0); err == nil {
			o := rec.Order()
			in.Emulators = append(in.Emulators, emulatorInfo{libxlfmt.EmulatorID(o.Uint32(head[:])).String(), o.Uint32(head[4:]), rec.Length - 8})
		}
	}
}

func (in *info) body(body libxlfmt.Body) {
	switch b := body.(type) {
	case libxlfmt.PVInfo:
		in.Guest = fmt.Sprintf("%d-bit", 8*b.GuestWidth)
	case libxlfmt.VCPU:
		in.VCPUs = max(in.VCPUs, int(b.ID)+1)
	case libxlfmt.HVMParams:
		for _, p := range b {
			in.Params[p.Name()] = p.Value
		}
	case libxlfmt.Xenstore:
		for _, p := range b.Pairs {
			in.Xenstore[p.Key] = p.Value
		}
	case libxlfmt.HVMContext:
		cpus := 0
		for e, err := range b.Entries() {
			if err != nil {
				break
			}
			if e.Name() == "CPU" {
				cpus++
			}
		}
		in.VCPUs = cpus
	}
}
