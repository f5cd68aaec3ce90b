package qcow2_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/qcow2"
)

// TestVMState: the state of a machine is written piece by piece, goes to a
// snapshot, survives what happens to others, and comes back.
func TestVMState(t *testing.T) {
	seed := difftest.Seed(t, 1)
	for name, make := range writeFlavours() {
		t.Run(name, func(t *testing.T) {
			d := newSnapDisk(make(t, seed))
			state := bytes.Repeat([]byte("the state of a machine "), 10_000)
			for at := 0; at < len(state); {
				n := min(1+d.rng.IntN(20_000), len(state)-at)
				_, err := d.im.WriteVMStateAt(state[at:at+n], int64(at))
				if strings.HasPrefix(name, "data") {
					if !errors.Is(err, errors.ErrUnsupported) {
						t.Error(err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				at += n
			}
			d.step()
			d.reopen()
			d.verify()
			wantState(t, d.im, state)
			if d.im.Header().RefcountOrder == 0 {
				return
			}
			for _, name := range []string{"before", "vm", "after"} {
				var o *qcow2.SnapshotOptions
				if name == "vm" {
					o = &qcow2.SnapshotOptions{VMStateSize: int64(len(state))}
				}
				_, err := d.im.CreateSnapshot(t.Context(), name, o)
				if d.im.Header().RefcountOrder == 1 && errors.Is(err, qcow2.ErrLimit) {
					if name != "after" { // compressed clusters share some of the file
						return
					}
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				if name == "vm" { // it is the snapshot's now
					wantState(t, d.im, bytes.Repeat([]byte{0}, 1000))
				}
				d.step()
			}
			d.reopen()
			v, err := d.im.OpenSnapshot("vm")
			if err != nil {
				t.Fatal(err)
			}
			for _, other := range []string{"before", "after"} {
				if err := d.im.DeleteSnapshot(t.Context(), other); err != nil && !errors.Is(err, qcow2.ErrNoSnapshot) {
					t.Fatal(err)
				}
				got, err := io.ReadAll(v.VMState())
				if err != nil || !bytes.Equal(got, state) {
					t.Fatalf("%d bytes, %v", len(got), err)
				}
			}
			if err := d.im.ApplySnapshot(t.Context(), "vm"); err != nil {
				t.Fatal(err)
			}
			wantState(t, d.im, state)
			if err := d.im.DeleteSnapshot(t.Context(), "vm"); err != nil {
				t.Fatal(err)
			}
			wantState(t, d.im, state)
			if err := d.im.Close(); err != nil {
				t.Fatal(err)
			}
			checkClean(t, d.f)
		})
	}
}

// wantState reads the VM state of the active disk, and what follows it.
func wantState(t *testing.T, im *qcow2.Image, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := im.ReadVMStateAt(got, 0); n != len(got) || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	if i := differ(got, want); i >= 0 {
		t.Fatalf("byte %d is %#x, want %#x", i, got[i], want[i])
	}
	for _, off := range []int64{8 << 20, 1 << 40, 1 << 61} {
		if _, err := im.ReadVMStateAt(got[:10], off); err != nil || !bytes.Equal(got[:10], make([]byte, 10)) {
			t.Fatalf("at %#x: %x, %v", off, got[:10], err)
		}
	}
	for _, off := range []int64{-1, math.MaxInt64 - 5} {
		if _, err := im.ReadVMStateAt(got[:10], off); !errors.Is(err, qcow2.ErrOutOfRange) {
			t.Fatalf("at %#x: %v", off, err)
		}
	}
}

// TestVMStateSizes: a VM state of more than 4 GiB is told by the large field
// alone.
func TestVMStateSizes(t *testing.T) {
	d := newDisk(t, 1<<20, 0, qcow2.CreateOptions{}, 1)
	for i, size := range []int64{1<<32 - 1, 1 << 32, 5 << 32} {
		if _, err := d.im.CreateSnapshot(t.Context(), fmt.Sprint("s", i), &qcow2.SnapshotOptions{VMStateSize: size}); err != nil {
			t.Fatal(err)
		}
	}
	d.reopen()
	list, err := d.im.Snapshots()
	if err != nil {
		t.Fatal(err)
	}
	for i, size := range []int64{1<<32 - 1, 1 << 32, 5 << 32} {
		if list[i].VMStateSize != size {
			t.Errorf("%d, want %d", list[i].VMStateSize, size)
		}
	}
	e := edit(d.f.Bytes())
	for i, small := range []uint32{1<<32 - 1, 0, 0} {
		if got := uint32(e.u64(e.snapshotEntry(int64(i))+32) >> 32); got != small {
			t.Errorf("the small field is %d, want %d", got, small)
		}
	}
}

// TestVMStateQEMU: VM state that qemu-io wrote is read here, and what was
// written here is read by qemu-io; also when other snapshots are deleted.
func TestVMStateQEMU(t *testing.T) {
	img, qio := difftest.Tool(t, "qemu-img", "7.2"), difftest.Tool(t, "qemu-io", "7.2")
	rng := rand.New(rand.NewPCG(difftest.Seed(t, 1), 1))
	for _, fl := range flavours() {
		if fl.data || fl.name == "512" {
			continue
		}
		fl.widen()
		t.Run(fl.name, func(t *testing.T) {
			d := newShared(t, &fl, rng.Uint64())
			run := func(cmds ...string) {
				t.Helper()
				args := []string{"-f", "qcow2"}
				for _, c := range cmds {
					args = append(args, "-c", c)
				}
				if r := difftest.Try(t, qio, append(args, "x.qcow2")...); r.Code != 0 {
					t.Fatalf("%q: %s%s", cmds, r.Stdout, r.Stderr)
				}
			}
			d.write(false)
			run("write -b -P 9 0 100k", "write -b -P 8 3M 5k")
			d.qemu("snapshot", "-c", "theirs")
			d.kept["theirs"], d.names = bytes.Clone(d.want), []string{"theirs"}
			state := append(bytes.Repeat([]byte{9}, 100<<10), make([]byte, 3<<20-100<<10)...)
			state = append(state, bytes.Repeat([]byte{8}, 5<<10)...)
			d.here(func(im *qcow2.Image) {
				wantState(t, im, state)
				if _, err := im.WriteVMStateAt(bytes.Repeat([]byte{7}, 68<<10), 50<<10); err != nil {
					t.Fatal(err)
				}
				if _, err := im.CreateSnapshot(t.Context(), "ours", nil); err != nil {
					t.Fatal(err)
				}
			})
			d.kept["ours"], d.names = bytes.Clone(d.want), append(d.names, "ours")
			d.write(true)
			d.judge()
			run("read -b -P 9 0 50k", "read -b -P 7 50k 68k", "read -b -P 0 200k 1M", "read -b -P 8 3M 5k")
			d.qemu("snapshot", "-a", "theirs")
			d.want = bytes.Clone(d.kept["theirs"])
			d.here(func(im *qcow2.Image) { wantState(t, im, state) })
			d.here(func(im *qcow2.Image) {
				if err := im.DeleteSnapshot(t.Context(), "theirs"); err != nil {
					t.Fatal(err)
				}
				wantState(t, im, state)
				if err := im.ApplySnapshot(t.Context(), "ours"); err != nil {
					t.Fatal(err)
				}
			})
			d.want, d.names = bytes.Clone(d.kept["ours"]), []string{"ours"}
			run("read -b -P 9 0 50k", "read -b -P 7 50k 68k", "read -b -P 8 3M 5k")
			difftest.Run(t, img, "snapshot", "-d", "ours", "x.qcow2")
			d.names = nil
			run("read -b -P 9 0 50k", "read -b -P 7 50k 68k", "read -b -P 8 3M 5k")
			d.judge()
		})
	}
}

// A monitor runs a machine without a guest, on x.qcow2, and gives it commands.
func monitor(t *testing.T, name string, commands ...string) {
	t.Helper()
	qemu := difftest.Tool(t, "qemu-system-x86_64", "7.2")
	in := strings.Join(append(commands, "quit"), "\n") + "\n"
	r := difftest.TryIn(t, []byte(in), qemu, "-machine", "pc,accel=tcg", "-m", "16", "-nodefaults", "-display", "none", "-S",
		"-monitor", "stdio", "-drive", "file="+name+",format=qcow2,if=ide")
	if r.Code != 0 || bytes.Contains(r.Stdout, []byte("Error")) || bytes.Contains(r.Stderr, []byte("rror")) {
		t.Fatalf("%q: exit %d\n%s%s", commands, r.Code, r.Stdout, r.Stderr)
	}
}

// TestVMSnapshot: snapshots of a machine are listed, applied and deleted here,
// and the machine loads them afterwards; it also loads one whose state was
// read here and written to another image.
func TestVMSnapshot(t *testing.T) {
	img := difftest.Tool(t, "qemu-img", "7.2")
	fl := flavour{cluster: 65536, size: 8 << 20}
	d := newShared(t, &fl, 1)
	d.write(false)
	monitor(t, "x.qcow2", "savevm first", "savevm second", "savevm third")
	var state []byte
	var list []qcow2.Snapshot
	d.here(func(im *qcow2.Image) {
		var err error
		if list, err = im.Snapshots(); err != nil || len(list) != 3 {
			t.Fatalf("%+v, %v", list, err)
		}
	})
	d.listed(list)
	d.here(func(im *qcow2.Image) {
		for _, s := range list {
			v, err := im.OpenSnapshot(s.ID)
			if err != nil {
				t.Fatal(err)
			}
			if state, err = io.ReadAll(v.VMState()); err != nil || !bytes.HasPrefix(state, []byte("QEVM")) || s.ICount != -1 {
				t.Fatalf("%+v: %.16q, %v", s, state, err)
			}
			d.same(s.Name, v, d.want)
		}
		if err := im.ApplySnapshot(t.Context(), "first"); err != nil {
			t.Fatal(err)
		}
		if err := im.DeleteSnapshot(t.Context(), "second"); err != nil {
			t.Fatal(err)
		}
	})
	difftest.Run(t, img, "check", "x.qcow2")
	monitor(t, "x.qcow2", "loadvm first", "info status", "loadvm third", "savevm fourth", "delvm first")
	difftest.Run(t, img, "check", "x.qcow2")
	fl.make(t, ".", "x.qcow2") // another image
	d.here(func(im *qcow2.Image) {
		if _, err := im.WriteVMStateAt(state, 0); err != nil {
			t.Fatal(err)
		}
		o := &qcow2.SnapshotOptions{Time: list[0].Time, VMStateSize: int64(len(state)), ICount: -1}
		if _, err := im.CreateSnapshot(t.Context(), "moved", o); err != nil {
			t.Fatal(err)
		}
	})
	monitor(t, "x.qcow2", "loadvm moved", "info status")
	difftest.Run(t, img, "check", "x.qcow2")
}
