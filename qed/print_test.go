package qed_test

import (
	"fmt"
	"testing"

	"github.com/virtfmt/virtfmt/qed"
)

// TestConstantsPrint: constants print as words, and what is none as its number.
func TestConstantsPrint(t *testing.T) {
	for _, tt := range []struct {
		value fmt.Stringer
		want  string
	}{
		{qed.RepairNone, "none"},
		{qed.RepairAll, "all"},
		{qed.RepairAll + 1, "repair mode 3"},
		{qed.DifferentBytes, "bytes"},
		{qed.DifferentAllocation, "allocation"},
		{qed.DifferentAllocation + 1, "DifferenceKind(3)"},
	} {
		if got := tt.value.String(); got != tt.want {
			t.Errorf("%T: %q, want %q", tt.value, got, tt.want)
		}
	}
}
