package imgopen_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/examples/internal/imgopen"
	"github.com/virtfmt/virtfmt/internal/block"
)

// Options have values, and what they say is done.
func TestOptionValues(t *testing.T) {
	inFolder(t)
	const plain = "driver=qcow2,file.filename=plain.qcow2"
	for opts, wrong := range map[string]string{
		"":                                     "",
		",lazy-refcounts=on,read-only=yes":     "",
		",l2-cache-size=1M,cache.no-flush=off": "",
		",overlap-check=constant,overlap-check.main-header=on": "",
		",discard=unmap,detect-zeroes=unmap":                   "",
		",file.locking=off,file.aio=threads,node-name=x":       "",
		",lazy-refcounts=maybe":                                "Parameter 'lazy-refcounts' expects 'on' or 'off'",
		",read-only=2":                                         "Parameter 'read-only' expects",
		",cache.direct=":                                       "Parameter 'cache.direct' expects",
		",l2-cache-size=x":                                     "expects a non-negative number",
		",cache-clean-interval=-1":                             "expects a number",
		",overlap-check=foo":                                   "Allowed are any of",
		",discard=foo":                                         "Invalid discard option",
		",detect-zeroes=foo":                                   "invalid parameter value: foo",
		",detect-zeroes=unmap":                                 "not allowed without setting discard",
		",file.locking=foo":                                    "invalid parameter value: foo",
		",file.aio=native":                                     "requires cache.direct=on",
		",cache.writeback=on":                                  "does not support the option 'cache.writeback'",
		",encrypt.format=luks":                                 "Header reported '' encryption format",
	} {
		img, err := imgopen.Open(plain+opts, &imgopen.Options{ImageOpts: true})
		if err == nil {
			must(t, img.Close())
		}
		if (err == nil) != (wrong == "") || err != nil && !strings.Contains(err.Error(), wrong) {
			t.Errorf("%s: %v", opts, err)
		}
	}
	for opts, wrong := range map[string]string{
		",read-only=on": "read-only", ",file.read-only=on": "read-only", ",force-share=on": "force-share", ",read-only=off": "",
	} {
		img, err := imgopen.Open(plain+opts, &imgopen.Options{ImageOpts: true, Write: true})
		if err == nil {
			must(t, img.Close())
		}
		if (err == nil) != (wrong == "") || err != nil && !strings.Contains(err.Error(), wrong) {
			t.Errorf("for writing, %s: %v", opts, err)
		}
	}
}

// An image lies in a file, in a part of one, or in the disk of another image.
func TestNested(t *testing.T) {
	inFolder(t)
	img, err := imgopen.Open("driver=raw,file.driver=qcow2,file.file.filename=plain.qcow2", &imgopen.Options{ImageOpts: true, Write: true})
	must(t, err)
	if img.Size() != size || !bytes.HasPrefix(read(t, img, 0, 64), text("plain.qcow2")) {
		t.Errorf("%s: %d bytes", img.Name, img.Size())
	}
	_, err = img.Writer().WriteAt([]byte("new"), 4096)
	must(t, err)
	must(t, img.Close())
	img, err = imgopen.Open("plain.qcow2", nil)
	must(t, err)
	if got := read(t, img, 4096, 3); string(got) != "new" {
		t.Errorf("wrote %q through the image around it", got)
	}
	must(t, img.Close())

	for name, wrong := range map[string]string{
		"driver=raw,offset=1M,size=512,file.filename=base.raw":                                     "The sum of offset (1048576) and size (512)",
		"driver=raw,offset=2M,file.filename=base.raw":                                              "Offset (2097152) cannot be greater",
		"driver=raw,size=513,file.filename=base.raw":                                               "not multiple of 512",
		"driver=raw,file.driver=raw,file.offset=64k,offset=64k,file.file.filename=base.raw":        "",
		"driver=raw,file.driver=raw,file.offset=512,file.file.filename=part.raw":                   "",
		"driver=qcow2,file.driver=nbd,file.host=localhost":                                         "Driver 'nbd' is not supported",
		"driver=raw,file.driver=raw,file.size=64k,offset=128k,file.file.filename=base.raw":         "Offset (131072) cannot be greater",
		"driver=qcow2,file.driver=qcow2,file.file.filename=plain.qcow2":                            "Image is not in qcow2 format",
		"driver=raw,file.driver=qcow2,file.backing=,file.file.filename=over.qcow2":                 "",
		"driver=raw,file.driver=qcow2,file.backing.file.filename=x,file.file.filename=plain.qcow2": "does not support the option",
	} {
		img, err := imgopen.Open(name, &imgopen.Options{ImageOpts: true})
		if err == nil {
			for _, err := range block.WholeDisk(img) {
				must(t, err)
			}
			must(t, img.Close())
		}
		if (err == nil) != (wrong == "") || err != nil && !strings.Contains(err.Error(), wrong) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The extents of a part of a file are those of the file, and its holes stay.
func TestPartExtents(t *testing.T) {
	inFolder(t)
	f := newFile(t, "holes.raw")
	_, err := f.WriteAt(bytes.Repeat([]byte{1}, 128<<10), 1<<20)
	must(t, err)
	must(t, f.Truncate(4<<20))
	img, err := imgopen.Open("driver=raw,offset=512k,size=2M,file.filename=holes.raw", &imgopen.Options{ImageOpts: true, Write: true})
	must(t, err)
	defer img.Close()
	for x, err := range block.WholeDisk(img) {
		must(t, err)
		if x.HostOffset != x.Start+512<<10 {
			t.Errorf("%+v", x)
		}
	}
	if got := read(t, img, 512<<10, 1); got[0] != 1 {
		t.Errorf("read %d", got[0])
	}
	if p, ok := img.Writer().(block.PunchHoler); !ok || p.PunchHole(512<<10, 64<<10) != nil {
		t.Log("no holes here")
	} else if got := read(t, img, 512<<10, 1); got[0] != 0 {
		t.Errorf("a hole holds %d", got[0])
	}
}

// With detect-zeroes, zeros that are written are made.
func TestDetectZeroes(t *testing.T) {
	inFolder(t)
	img, err := imgopen.Open("driver=qcow2,detect-zeroes=on,file.filename=plain.qcow2", &imgopen.Options{ImageOpts: true, Write: true})
	must(t, err)
	defer img.Close()
	for _, c := range []struct {
		at   int64
		b    byte
		kind block.Kind
	}{{128 << 10, 0, block.Zero}, {256 << 10, 1, block.Data}} {
		_, err = img.Writer().WriteAt(bytes.Repeat([]byte{c.b}, 64<<10), c.at)
		must(t, err)
		for x, err := range img.Extents(c.at, 1) {
			if err != nil || x.Kind != c.kind {
				t.Errorf("%d: %+v, %v", c.b, x, err)
			}
		}
	}
}

func read(t *testing.T, d block.Disk, off int64, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	_, err := d.ReadAt(b, off)
	must(t, err)
	return b
}
