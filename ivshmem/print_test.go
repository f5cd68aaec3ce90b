package ivshmem_test

import (
	"fmt"
	"testing"

	"github.com/virtfmt/virtfmt/internal/apitest"
	"github.com/virtfmt/virtfmt/ivshmem"
)

// TestConstantsPrint: constants print as words, and what is none as its number.
func TestConstantsPrint(t *testing.T) {
	apitest.Words(t, map[fmt.Stringer]string{
		ivshmem.Connected:      "connected",
		ivshmem.ServerLost:     "server lost",
		ivshmem.ServerLost + 1: "EventKind(4)",
		ivshmem.Joined:         "joined",
		ivshmem.Refused:        "refused",
		ivshmem.Refused + 1:    "ServerEventKind(3)",
		ivshmem.TraceRead:      "read",
		ivshmem.TraceLine:      "pin",
		ivshmem.TraceLine + 1:  "TraceKind(8)",
		ivshmem.Revision1:      "revision 1",
		ivshmem.Revision0:      "revision 0",
		ivshmem.Revision0 + 1:  "Revision(2)",
	})
}
