package qtest_test

import (
	"bytes"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/qtest"
)

func TestVM(t *testing.T) {
	vm := qtest.Start(t, difftest.Tool(t, "qemu-system-x86_64", "7.2"), "-M", "pc", "-m", "16")
	vm.Write(0x1000, []byte("abc"))
	if got := vm.Read(0x1000, 4); !bytes.Equal(got, []byte("abc\x00")) {
		t.Errorf("read %q", got)
	}
	vm.Store(0x1001, 2, 0x1234)
	if got := vm.Load(0x1000, 4); got != 0x123461 {
		t.Errorf("loaded 0x%x", got)
	}
	vm.Out(0xcf8, 4, 0x80000000)
	if got := vm.In(0xcfc, 2); got != 0x8086 {
		t.Errorf("host bridge's vendor 0x%x", got)
	}
	if _, err := vm.QMP("no-such-command", nil); err == nil {
		t.Error("no error")
	}
	if _, err := vm.QMP("system_reset", nil); err != nil {
		t.Error(err)
	}
	vm.Await("RESET")
}
