package acpihotplug_test

import (
	"fmt"
	"testing"

	"github.com/virtfmt/virtfmt/acpihotplug"
)

// TestConstantsPrint: constants print as words, and what is none as its number.
func TestConstantsPrint(t *testing.T) {
	for _, tt := range []struct {
		value fmt.Stringer
		want  string
	}{
		{acpihotplug.EventRead, "read"},
		{acpihotplug.EventReset, "reset"},
		{acpihotplug.EventReset + 1, "EventKind(9)"},
	} {
		if got := tt.value.String(); got != tt.want {
			t.Errorf("%T: %q, want %q", tt.value, got, tt.want)
		}
	}
}
