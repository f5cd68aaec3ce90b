package apitest

import (
	"fmt"
	"testing"
)

// Words tests that constants print as they should.
func Words(tb testing.TB, want map[fmt.Stringer]string) {
	tb.Helper()
	for value, want := range want {
		if got := value.String(); got != want {
			tb.Errorf("%T: %q, want %q", value, got, want)
		}
	}
}
