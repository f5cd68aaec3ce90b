package align_test

import (
	"math"
	"testing"

	"github.com/virtfmt/virtfmt/internal/align"
)

func TestRounding(t *testing.T) {
	for _, c := range []struct{ n, unit, down, up, div int64 }{
		{0, 512, 0, 0, 0},
		{1, 512, 0, 512, 1},
		{511, 512, 0, 512, 1},
		{512, 512, 512, 512, 1},
		{513, 512, 512, 1024, 2},
		{1 << 62, 2, 1 << 62, 1 << 62, 1 << 61},
	} {
		if got := align.Down(c.n, c.unit); got != c.down {
			t.Errorf("Down(%d, %d) = %d, want %d", c.n, c.unit, got, c.down)
		}
		if got := align.Up(c.n, c.unit); got != c.up {
			t.Errorf("Up(%d, %d) = %d, want %d", c.n, c.unit, got, c.up)
		}
		if got := align.CeilDiv(c.n, c.unit); got != c.div {
			t.Errorf("CeilDiv(%d, %d) = %d, want %d", c.n, c.unit, got, c.div)
		}
		if got, want := align.IsAligned(c.n, c.unit), c.down == c.n; got != want {
			t.Errorf("IsAligned(%d, %d) = %v, want %v", c.n, c.unit, got, want)
		}
	}
	if got, want := align.CeilDiv(uint64(math.MaxUint64), 512), uint64(1)<<55; got != want {
		t.Errorf("CeilDiv at the type's maximum = %#x, want %#x", got, want)
	}
}

func TestIsPow2(t *testing.T) {
	for n := range int64(5000) {
		want := false
		for p := int64(1); p <= n; p *= 2 {
			want = want || p == n
		}
		if got := align.IsPow2(n); got != want {
			t.Errorf("IsPow2(%d) = %v", n, got)
		}
	}
	if align.IsPow2(int64(math.MinInt64)) || align.IsPow2(-4) {
		t.Error("IsPow2 of a negative number is true")
	}
	if !align.IsPow2(uint64(1) << 63) {
		t.Error("IsPow2(1<<63) is false")
	}
}
