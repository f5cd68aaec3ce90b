package difftest

import (
	"runtime/debug"
	"testing"
	"time"
)

// Watchdog ends the whole process, with the stacks of all goroutines, if f does not
// return within 20 minutes, more where tests are scaled up: it is stuck for ever.
func Watchdog(tb testing.TB, f func()) {
	tb.Helper()
	limit := time.Duration(max(20, Scale(tb, 20))) * time.Minute
	timer := time.AfterFunc(limit, func() {
		debug.SetTraceback("all")
		panic(tb.Name() + " is stuck")
	})
	defer timer.Stop()
	f()
}
