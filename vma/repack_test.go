package vma_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/vma"
)

func repack(t *testing.T, b []byte, profile vma.Profile, o *vma.RepackOptions) ([]byte, error) {
	t.Helper()
	a, err := vma.Open(bytes.NewReader(b), &vma.Options{Profile: profile})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err = vma.Repack(t.Context(), &out, a, o)
	return out.Bytes(), err
}

// TestRepack tests that archives of the same content become the same bytes,
// whatever their order and form.
func TestRepack(t *testing.T) {
	rnd := rand.New(rand.NewPCG(difftest.Seed(t, 6), 0))
	disks := []ram{content(1, 5<<20+512, 0.5), content(2, 2<<20, 0.2), content(3, 540672, 0.6)}
	var want []byte
	for range difftest.Scale(t, 10) {
		got, err := repack(t, writeShuffled(t, rnd, disks), vma.Proxmox, nil)
		if err != nil {
			t.Fatal(err)
		}
		readBack(t, got, disks)
		if want == nil {
			want = got
		}
		if !bytes.Equal(got, want) {
			t.Fatal("repacked to other bytes")
		}
	}
	if got, err := repack(t, want, vma.Strict, nil); err != nil || !bytes.Equal(got, want) {
		t.Errorf("repacked again to other bytes: %v", err)
	}
	for _, name := range []string{"none", "cluster stored as zeros", "tail whole", "clusters swapped", "extent empty first", "slot unused with mask", "padding"} {
		base, err := repack(t, mutant(t, "none"), vma.Proxmox, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := repack(t, mutant(t, name), vma.Proxmox, nil)
		if name == "clusters swapped" {
			continue // which is other content
		}
		if err != nil || !bytes.Equal(got, base) {
			t.Errorf("%s: repacked to other bytes: %v", name, err)
		}
	}
}

func TestRepackEdit(t *testing.T) {
	disks := []ram{content(1, 3<<20, 0.5), content(2, 2<<20, 0.2), content(3, 540672, 0.6)}
	whole := build(t, false, disks...)
	var last, total int64
	got, err := repack(t, whole, vma.Proxmox, &vma.RepackOptions{
		UUID:  [16]byte{1: 7},
		CTime: 5,
		Edit: func(h *vma.Header) error {
			h.Devices = append(h.Devices[:1], h.Devices[2:]...)
			h.Devices[0].Name = "drive-scsi7"
			conf, err := vma.SetMap(h.Configs[0].Data, []vma.MapEntry{{VirtDev: "scsi7", Device: "drive-scsi7", Storage: "local", Format: "raw"}})
			h.Configs[0].Data = conf
			return err
		},
		Progress: func(done, n int64) { last, total = done, n },
	})
	if err != nil {
		t.Fatal(err)
	}
	readBack(t, got, []ram{disks[0], disks[2]})
	a, err := vma.Open(bytes.NewReader(got), nil)
	if err != nil {
		t.Fatal(err)
	}
	h := a.Header()
	if h.UUID != [16]byte{1: 7} || h.CTime != 5 || h.Devices[0].Name != "drive-scsi7" || h.Devices[1].ID != 3 {
		t.Errorf("header %+v", h)
	}
	if last != total || total != disks[0].Size()+disks[2].Size() {
		t.Errorf("progress ends at %d of %d", last, total)
	}
	if _, err := repack(t, whole, vma.Proxmox, &vma.RepackOptions{Edit: func(h *vma.Header) error {
		h.Devices[0].ID = 99
		return nil
	}}); err == nil {
		t.Error("repacked a device that is not there")
	}
	if _, err := repack(t, whole, vma.Proxmox, &vma.RepackOptions{Edit: func(*vma.Header) error { return errFull }}); !errors.Is(err, errFull) {
		t.Errorf("Edit fails: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := vma.Repack(ctx, &bytes.Buffer{}, a, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

// TestRepackSalvage repacks a damaged archive: only when asked for are its
// losses zeros.
func TestRepackSalvage(t *testing.T) {
	disk := content(1, 9<<20, 0.2)
	p := takeApart(build(t, false, disk))
	p.extents = p.extents[:2]
	if _, err := repack(t, p.join(), vma.Salvage, nil); !errors.Is(err, vma.ErrIncomplete) {
		t.Errorf("a damaged archive: %v", err)
	}
	got, err := repack(t, p.join(), vma.Salvage, &vma.RepackOptions{FillMissing: true})
	if err != nil {
		t.Fatal(err)
	}
	clear(disk[2*58<<16:])
	readBack(t, got, []ram{disk})
}

// TestRepackBeyondWriter repacks what a Writer does not make: sizes that are
// not whole sectors, and the device ID 255.
func TestRepackBeyondWriter(t *testing.T) {
	for name, size := range map[string]int64{"device of 65836 bytes": 65836, "device moves to 255": 3 << 16} {
		got, err := repack(t, mutant(t, name), vma.Strict, nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		a, err := vma.Open(bytes.NewReader(got), nil)
		if err != nil {
			t.Fatal(err)
		}
		d := a.Device("disk1")
		if want := (size + 511) &^ 511; d.Size() != want || d.Info().ID > vma.MaxDevices {
			t.Errorf("%s: %+v", name, d.Info())
		}
		p := make([]byte, size)
		if _, err := d.ReadAt(p, 0); err != nil || !bytes.Equal(p, content(2, 3<<16, 1)[:size]) && name != "device moves to 255" {
			t.Errorf("%s: %v, or other bytes", name, err)
		}
	}
}

const testConf = `boot: order=scsi0
scsi0: local-lvm:vm-100-disk-0,size=32G
scsi1: nfs:100/vm-100-disk-1.qcow2,size=1G
ide2: none,media=cdrom
#qmdump#map:scsi0:drive-scsi0:local-lvm:raw:
#qmdump#map:scsi1:drive-scsi1::qcow2:
#qmdump#map:broken
#qmdump#map:a:b:c:d:e:

[snap1]
scsi0: local-lvm:snap
#qmdump#map:x:y:z:raw:
`

func TestMap(t *testing.T) {
	got := vma.ParseMap([]byte(testConf))
	want := []vma.MapEntry{
		{VirtDev: "scsi0", Device: "drive-scsi0", Storage: "local-lvm", Format: "raw"},
		{VirtDev: "scsi1", Device: "drive-scsi1", Format: "qcow2"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	made := vma.MakeMap([]byte(testConf), []vma.DeviceInfo{{Name: "drive-scsi1"}, {Name: "drive-scsi0"}, {Name: "drive-scsi9"}, {Name: "vmstate"}, {Name: "drive-ide2"}})
	want = []vma.MapEntry{
		{VirtDev: "scsi1", Device: "drive-scsi1", Storage: "nfs", Format: "qcow2"},
		{VirtDev: "scsi0", Device: "drive-scsi0", Storage: "local-lvm", Format: "raw"},
		{VirtDev: "ide2", Device: "drive-ide2", Format: "raw"},
	}
	if diff := cmp.Diff(want, made); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	conf, err := vma.SetMap([]byte(testConf), want[:1])
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(`boot: order=scsi0
scsi0: local-lvm:vm-100-disk-0,size=32G
scsi1: nfs:100/vm-100-disk-1.qcow2,size=1G
ide2: none,media=cdrom

#qmdump#map:scsi1:drive-scsi1:nfs:qcow2:
[snap1]
scsi0: local-lvm:snap
#qmdump#map:x:y:z:raw:
`, string(conf)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	for _, e := range []vma.MapEntry{{}, {VirtDev: "a"}, {VirtDev: "a:b", Device: "c"}, {VirtDev: "a", Device: "b\n"}} {
		if _, err := vma.SetMap(nil, []vma.MapEntry{e}); err == nil {
			t.Errorf("%+v: no error", e)
		}
	}
	if conf, err := vma.SetMap([]byte("memory: 1"), want[2:]); err != nil || string(conf) != "memory: 1\n#qmdump#map:ide2:drive-ide2::raw:\n" {
		t.Errorf("%q, %v", conf, err)
	}
}

// FuzzMap tests that a map that is set is the one that is parsed.
func FuzzMap(f *testing.F) {
	f.Add([]byte(testConf))
	f.Add([]byte("a"))
	f.Fuzz(func(t *testing.T, conf []byte) {
		m := vma.ParseMap(conf)
		set, err := vma.SetMap(conf, m)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(m, vma.ParseMap(set)); diff != "" {
			t.Fatalf("-want +got\n%s", diff)
		}
		if again, err := vma.SetMap(set, m); err != nil || !bytes.Equal(again, set) {
			t.Fatalf("%q, then %q, %v", set, again, err)
		}
	})
}
