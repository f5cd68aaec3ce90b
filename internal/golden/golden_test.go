package golden_test

import (
	"testing"

	"github.com/virtfmt/virtfmt/internal/golden"
)

func TestDump(t *testing.T) {
	b := make([]byte, 100)
	b[0], b[99] = 0xab, 1
	want := `00000000  ab 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
00000010  zeros to 00000060
00000060  00 00 00 01
`
	if got := golden.Dump(b); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestHex(t *testing.T) { golden.Hex(t, "bytes.txt", []byte{1, 2, 3}) }
