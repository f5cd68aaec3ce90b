package main

import (
	"bufio"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// printInfo prints an info for people.
func (p *program) printInfo(in *info) error {
	w := bufio.NewWriter(p.out)
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-10s %s\n", name, fmt.Sprintf(format, args...))
	}
	line("container", "%s", in.Container)
	if in.Config != "" {
		line("config", "%d bytes", len(in.Config))
	}
	for _, l := range []struct {
		name string
		*layerInfo
	}{{"libxl", in.Libxl}, {"libxc", in.Libxc}} {
		if l.layerInfo != nil {
			line(l.name, "%s", l.layerInfo)
		}
	}
	if in.Guest != "" {
		line("guest", "%s", in.Guest)
	}
	if in.VCPUs > 0 {
		line("vcpus", "%d", in.VCPUs)
	}
	if m := in.Memory; m != nil && m.Size > 0 {
		line("memory", "%d bytes of contents, addresses to %#x", m.Bytes, m.Size)
		for _, t := range slices.Sorted(maps.Keys(m.Pages)) {
			line("", "%8d pages %s", m.Pages[t], t)
		}
	}
	for _, e := range in.Emulators {
		line("emulator", "%s %d: %d bytes", e.ID, e.Index, e.Length)
	}
	for _, k := range slices.Sorted(maps.Keys(in.Params)) {
		line("param", "%s = %#x", k, in.Params[k])
	}
	for _, k := range slices.Sorted(maps.Keys(in.Xenstore)) {
		line("xenstore", "%s = %q", k, in.Xenstore[k])
	}
	for _, r := range in.order {
		line("records", "%8d %s", in.Records[r], r)
	}
	line("size", "%d bytes, %d behind the end", in.Size, in.Trailing)
	line("end", "%s", cmp.Or(in.Error, in.End))
	return w.Flush()
}

func (l *layerInfo) String() string {
	s := []string{fmt.Sprintf("version %d", l.Version), "little-endian"}
	if l.BigEndian {
		s[1] = "big-endian"
	}
	if l.Legacy {
		s = append(s, "converted from a legacy stream")
	}
	if l.Domain != "" {
		s = append(s, l.Domain, "Xen "+l.Xen)
	}
	return strings.Join(s, ", ")
}
