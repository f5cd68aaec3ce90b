package imgopen

import (
	"bytes"
	"encoding/binary"
	"io"
)

// foreign returns the formats that QEMU's tools know by how a file begins and
// this library does not. An image of them is refused rather than taken for a
// raw one.
func foreign() []struct{ format, magic string } {
	return []struct{ format, magic string }{
		{"vmdk", "KDMV"},
		{"vmdk", "COWD"},
		{"vmdk", "# Disk DescriptorFile"},
		{"vhdx", "vhdxfile"},
		{"vpc", "conectix"},
		{"luks", "LUKS\xba\xbe"},
		{"parallels", "WithoutFreeSpace"},
		{"parallels", "WithouFreSpacExt"},
		{"bochs", "Bochs Virtual HD Image"},
		{"cloop", "#!/bin/sh\n#V2.0 Format\nmodprobe cloop"},
	}
}

const headLength = 2048

// probe returns the format of a file by how it begins.
func probe(r io.ReaderAt) (string, error) {
	head := make([]byte, headLength)
	if _, err := r.ReadAt(head, 0); err != nil && err != io.EOF {
		return "", err
	}
	return formatOf(head), nil
}

// formatOf returns the format of a file that begins with head, of headLength bytes.
func formatOf(head []byte) string {
	switch {
	case bytes.HasPrefix(head, []byte("QFI\xfb")):
		if binary.BigEndian.Uint32(head[4:]) == 1 {
			return "qcow"
		}
		return "qcow2"
	case bytes.HasPrefix(head, []byte("QED\x00")):
		return "qed"
	case bytes.HasPrefix(head, []byte("VMA\x00")) && binary.BigEndian.Uint32(head[4:]) == 1:
		return "vma"
	case binary.LittleEndian.Uint32(head[64:]) == 0xbeda107f:
		return "vdi"
	}
	for _, f := range foreign() {
		if bytes.HasPrefix(head, []byte(f.magic)) {
			return f.format
		}
	}
	return "raw"
}
