package libxlfmt_test

import (
	"fmt"
	"testing"

	"github.com/virtfmt/virtfmt/internal/apitest"
	"github.com/virtfmt/virtfmt/libxlfmt"
)

// TestConstantsPrint: constants print as words, and what is none as its number.
func TestConstantsPrint(t *testing.T) {
	apitest.Words(t, map[fmt.Stringer]string{
		libxlfmt.XenstoreAuto:       "auto",
		libxlfmt.XenstoreDraftB:     "draft-b",
		libxlfmt.XenstoreDraftB + 1: "XenstoreForm(3)",
	})
}
