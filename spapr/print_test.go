package spapr_test

import (
	"fmt"
	"testing"

	"github.com/virtfmt/virtfmt/internal/apitest"
	"github.com/virtfmt/virtfmt/spapr"
)

// TestConstantsPrint: constants print as words, and what is none as its number.
func TestConstantsPrint(t *testing.T) {
	apitest.Words(t, map[fmt.Stringer]string{
		spapr.PowerOn:                          "on",
		spapr.PowerReboot:                      "reboot",
		spapr.PowerReboot + 1:                  "Power(3)",
		spapr.CPUStopped:                       "stopped",
		spapr.CPURunning:                       "running",
		spapr.CPURunning + 1:                   "CPUState(3)",
		spapr.CPUState(1<<32 - 1):              "CPUState(4294967295)",
		spapr.Strict(0):                        "none",
		spapr.StrictMemory | spapr.StrictClock: "memory+clock",
		spapr.StrictAll:                        "memory+xor+size+clock",
		spapr.StrictXOR | 1<<7:                 "xor+0x80",
	})
}
