package difftest

import "testing"

func TestAtLeast(t *testing.T) {
	for _, c := range []struct {
		got, min string
		want     bool
	}{
		{"7.2.22", "7.2", true},
		{"7.2", "7.2.1", false},
		{"10.0", "7.2", true},
		{"7.1.9", "7.2", false},
		{"", "7.2", false},
	} {
		if got := atLeast(c.got, c.min); got != c.want {
			t.Errorf("atLeast(%q, %q) = %v", c.got, c.min, got)
		}
	}
}

// fatal is a testing.TB that records how it was ended.
type fatal struct {
	testing.TB
	failed, skipped bool
}

func (f *fatal) Helper()               {}
func (f *fatal) Fatalf(string, ...any) { f.failed = true }
func (f *fatal) Skipf(string, ...any)  { f.skipped = true }

func TestRequireTurnsSkipsIntoFailures(t *testing.T) {
	t.Setenv("DIFFTEST", "")
	f := &fatal{}
	Missing(f, "no such tool")
	if f.failed || !f.skipped {
		t.Errorf("without DIFFTEST: failed %v, skipped %v", f.failed, f.skipped)
	}
	t.Setenv("DIFFTEST", "require")
	f = &fatal{}
	Missing(f, "no such tool")
	if !f.failed {
		t.Error("DIFFTEST=require did not fail the test")
	}
}

func TestScale(t *testing.T) {
	t.Setenv("VIRTFMT_SCALE", "2.5")
	if got := Scale(t, 10); got != 25 {
		t.Errorf("Scale(10) at 2.5 = %d", got)
	}
	t.Setenv("VIRTFMT_SCALE", "0.001")
	if got := Scale(t, 10); got != 1 {
		t.Errorf("Scale(10) at 0.001 = %d", got)
	}
}
