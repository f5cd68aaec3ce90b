package libxlfmt_test

import (
	"fmt"
	"testing"

	"github.com/virtfmt/virtfmt/libxlfmt"
)

// TestConstantsPrint: constants print as words, and what is none as its number.
func TestConstantsPrint(t *testing.T) {
	for _, tt := range []struct {
		value fmt.Stringer
		want  string
	}{
		{libxlfmt.XenstoreAuto, "auto"},
		{libxlfmt.XenstoreDraftB, "draft-b"},
		{libxlfmt.XenstoreDraftB + 1, "XenstoreForm(3)"},
	} {
		if got := tt.value.String(); got != tt.want {
			t.Errorf("%T: %q, want %q", tt.value, got, tt.want)
		}
	}
}
