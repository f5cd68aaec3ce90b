package qcow2_test

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/layertest"
	"github.com/virtfmt/virtfmt/qcow2"
)

// TestCompareAsQEMU compares images with others of the same content, of almost
// the same, and of another size, as qemu-img compare does.
func TestCompareAsQEMU(t *testing.T) {
	img, io := difftest.Tool(t, "qemu-img", "7.2"), difftest.Tool(t, "qemu-io", "7.2")
	rng := rand.New(rand.NewPCG(difftest.Seed(t, 5), 0))
	chains := []layertest.Chain{
		{raw(1 << 20), layer(1<<20, 4096, "")},
		{layer(1<<20, 65536, "")},
		{layer(600<<10, 512, "compat=0.10"), layer(2<<20, 32768, "extended_l2=on")},
	}
	seen := map[string]int{}
	for _, c := range chains {
		dir, _ := c.Make(t, rng)
		size := c[len(c)-1].Size
		for i, format := range []string{"qcow2", "raw", "qcow2", "raw", "qcow2", "raw"} {
			other := fmt.Sprintf("other%d", i)
			runIn(t, dir, img, "convert", "-f", "qcow2", "-O", format, c.Top(), other)
			var cmds []string
			switch {
			case i < 2: // the same
			case i < 4:
				cmds = []string{fmt.Sprintf("write -P 77 %d 512", rng.Int64N(size/512)*512)}
			default:
				longer := size + 512*rng.Int64N(3000)
				runIn(t, dir, img, "resize", "-q", "-f", format, other, fmt.Sprint(longer))
				if rng.IntN(2) == 0 {
					cmds = []string{fmt.Sprintf("write -P 77 %d 512", longer-512)}
				}
			}
			for _, cmd := range cmds {
				difftest.Run(t, io, "-f", format, "-c", cmd, other)
			}
			a, b := openForReading(t, dir, c.Top(), "qcow2"), openForReading(t, dir, other, format)
			for _, strict := range []bool{false, true} {
				for _, swap := range []bool{false, true} {
					args := []string{"-f", "qcow2", "-F", format, c.Top(), other}
					x, y := a, b
					if swap {
						args = []string{"-f", format, "-F", "qcow2", other, c.Top()}
						x, y = b, a
					}
					if strict {
						args = append([]string{"-s"}, args...)
					}
					r := difftest.Try(t, img, append([]string{"compare"}, args...)...)
					if r.Code > 1 {
						t.Fatalf("qemu-img compare: %s", r.Stderr)
					}
					d, err := qcow2.Compare(t.Context(), x, y, &qcow2.CompareOptions{Strict: strict})
					if err != nil {
						t.Fatal(err)
					}
					got := compareText(d)
					if want := strings.TrimPrefix(string(r.Stdout), "Warning: Image size mismatch!\n"); got != want {
						t.Errorf("%s with %s, strict %t, swapped %t: %q, want %q", filepath.Join(dir, c.Top()), other, strict, swap, got, want)
					}
					seen[strings.TrimRight(got, " 0123456789!\n")]++
				}
			}
		}
	}
	t.Log(seen)
}

// compareText says of a difference what qemu-img says.
func compareText(d *qcow2.Difference) string {
	switch {
	case d == nil:
		return "Images are identical.\n"
	case d.Kind == qcow2.DifferentSize:
		return "Strict mode: Image size mismatch!\n"
	case d.Kind == qcow2.DifferentAllocation:
		return fmt.Sprintf("Strict mode: Offset %d block status mismatch!\n", d.Offset)
	}
	return fmt.Sprintf("Content mismatch at offset %d!\n", d.Offset&^511)
}
