package acpihotplug_test

import (
	"fmt"
	"testing"

	"github.com/virtfmt/virtfmt/acpihotplug"
	"github.com/virtfmt/virtfmt/internal/apitest"
)

// TestConstantsPrint: constants print as words, and what is none as its number.
func TestConstantsPrint(t *testing.T) {
	apitest.Words(t, map[fmt.Stringer]string{
		acpihotplug.EventRead:      "read",
		acpihotplug.EventReset:     "reset",
		acpihotplug.EventReset + 1: "EventKind(9)",
	})
}
