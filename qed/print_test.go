package qed_test

import (
	"fmt"
	"testing"

	"github.com/virtfmt/virtfmt/internal/apitest"
	"github.com/virtfmt/virtfmt/qed"
)

// TestConstantsPrint: constants print as words, and what is none as its number.
func TestConstantsPrint(t *testing.T) {
	apitest.Words(t, map[fmt.Stringer]string{
		qed.RepairNone:              "none",
		qed.RepairAll:               "all",
		qed.RepairAll + 1:           "repair mode 3",
		qed.DifferentBytes:          "bytes",
		qed.DifferentAllocation:     "allocation",
		qed.DifferentAllocation + 1: "DifferenceKind(3)",
	})
}
