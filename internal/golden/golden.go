// Package golden compares what a test made with a file in testdata, and
// writes that file anew under -update, so that a change of output shows in
// review.
package golden

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write golden files anew")

// Text compares got with testdata/name.
func Text(tb testing.TB, name, got string) {
	tb.Helper()
	path := filepath.Join("testdata", filepath.FromSlash(name))
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			tb.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		tb.Fatalf("%v (run the test with -update to make it)", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		tb.Errorf("%s differs from what was made (-want +got):\n%s", path, diff)
	}
}

// Hex compares a dump of b with testdata/name.
func Hex(tb testing.TB, name string, b []byte) {
	tb.Helper()
	Text(tb, name, Dump(b))
}

// Dump renders b as lines of 16 bytes, offset first; runs of lines that are
// all zero become one line.
func Dump(b []byte) string {
	const width = 16
	var s strings.Builder
	zero := make([]byte, width)
	for off := 0; off < len(b); {
		line := b[off:min(off+width, len(b))]
		run := 0
		for r := off; r+width <= len(b) && bytes.Equal(b[r:r+width], zero); r += width {
			run++
		}
		if run > 1 {
			fmt.Fprintf(&s, "%08x  zeros to %08x\n", off, off+run*width)
			off += run * width
			continue
		}
		fmt.Fprintf(&s, "%08x ", off)
		for _, c := range line {
			fmt.Fprintf(&s, " %02x", c)
		}
		s.WriteByte('\n')
		off += len(line)
	}
	return s.String()
}
