package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
)

func TestRun(t *testing.T) {
	var out strings.Builder
	if err := run([]string{t.TempDir()}, &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"disk.qcow2", "packed.qcow2", "0 corruptions, 0 leaks", "compressed", "unallocated"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing from\n%s", want, out.String())
		}
	}
}

func TestWrongArguments(t *testing.T) {
	for _, args := range [][]string{{"-x"}, {t.TempDir(), "another"}, {"main.go"}} {
		if err := run(args, new(strings.Builder)); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
}

func TestQemuAgrees(t *testing.T) {
	tool := difftest.Tool(t, "qemu-img", "7.2")
	dir := t.TempDir()
	if err := run([]string{dir}, new(strings.Builder)); err != nil {
		t.Fatal(err)
	}
	disk, packed := filepath.Join(dir, "disk.qcow2"), filepath.Join(dir, "packed.qcow2")
	difftest.Run(t, tool, "check", disk)
	difftest.Run(t, tool, "check", packed)
	difftest.Run(t, tool, "compare", disk, packed)
}
