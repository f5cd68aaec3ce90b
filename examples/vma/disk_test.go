package main

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/virtfmt/virtfmt/examples/internal/nbd"
	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/qcow2"
	"github.com/virtfmt/virtfmt/vma"
)

// TestBackingFile has a device of an archive be the backing file of an image:
// a machine can run from its backup.
func TestBackingFile(t *testing.T) {
	dir, d := testArchive(t), disks()
	a, err := vma.OpenFile(filepath.Join(dir, "a.vma"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	f, err := os.Create(filepath.Join(dir, "overlay.qcow2"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	im, err := qcow2.Create(f, int64(len(d[0])), &qcow2.CreateOptions{
		BackingFile: "a.vma", BackingFormat: "vma",
		Open: &qcow2.Options{OpenBacking: func(name, format string) (qcow2.Disk, error) {
			return a.Device("drive-scsi0"), nil
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Clone(d[0])
	copy(want[70000:], "written over")
	if _, err := im.WriteAt([]byte("written over"), 70000); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if _, err := im.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%v, or other bytes", err)
	}
	if err := im.Close(); err != nil {
		t.Error(err)
	}
}

// TestNBD exports a device, and has a client copy it.
func TestNBD(t *testing.T) {
	nbdcopy := difftest.Tool(t, "nbdcopy", "1.14")
	dir, d := testArchive(t), disks()
	a, err := vma.OpenFile(filepath.Join(dir, "a.vma"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	sock := filepath.Join(difftest.SocketDir(t), "s")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	s := &nbd.Server{Exports: []*nbd.Export{{Name: "disk", Disk: a.Device("drive-efidisk0")}}, MaxClients: 8, Log: func(err error) { t.Error(err) }}
	go func() { done <- s.Serve(ctx, l) }()
	out := filepath.Join(dir, "copy")
	difftest.Run(t, nbdcopy, "nbd+unix:///disk?socket="+sock, out)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, d[1]) {
		t.Errorf("%v, or other bytes", err)
	}
}
