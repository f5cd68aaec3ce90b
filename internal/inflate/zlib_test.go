package inflate_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/inflate"
)

// zlibScript compresses what it reads with every kind of setting of zlib, and
// writes each result behind its length.
const zlibScript = `
import sys, zlib, struct
data = sys.stdin.buffer.read()
for level in (0, 1, 4, 6, 9):
    for wbits in (9, 12, 15):
        for mem in (1, 8, 9):
            for strategy in range(5):
                z = zlib.compressobj(level, zlib.DEFLATED, -wbits, mem, strategy)
                out = z.compress(data[:len(data)//3])
                out += z.flush(zlib.Z_FULL_FLUSH if mem == 1 else zlib.Z_SYNC_FLUSH)
                out += z.compress(data[len(data)//3:]) + z.flush()
                sys.stdout.buffer.write(struct.pack('<I', len(out)) + out)
`

func TestZlib(t *testing.T) {
	python := difftest.Tool(t, "python3", "3.9")
	var d inflate.Decoder
	for name, p := range samples() {
		r := difftest.TryIn(t, p, python, "-c", zlibScript)
		if r.Code != 0 {
			t.Fatalf("python3: exit %d\n%s", r.Code, r.Stderr)
		}
		got, streams := make([]byte, len(p)), 0
		for out := r.Stdout; len(out) > 0; streams++ {
			n := binary.LittleEndian.Uint32(out)
			src := out[4 : 4+n]
			out = out[4+n:]
			if n, err := d.Decode(got, src); err != nil || !bytes.Equal(got, p) {
				t.Fatalf("%s, stream %d: %d bytes, %v", name, streams, n, err)
			}
		}
		if want := 5 * 3 * 3 * 5; streams != want {
			t.Errorf("%s: %d streams, want %d", name, streams, want)
		}
	}
}
