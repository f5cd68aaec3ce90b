package migschema_test

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"testing"
	"time"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/migschema"
)

// bombLimit is how much memory a hostile stream may cost: 64 MiB for one of
// 1 MiB.
func bombLimit(b []byte) uint64 { return 64 * uint64(max(1<<20, len(b))) }

// TestConversionBombs gives hostile streams to what reads a stream as a whole.
// TestBombs and TestClassicBombs give them to the decoders.
func TestConversionBombs(t *testing.T) {
	size := difftest.Scale(t, 1<<19)
	streams := bombs(size)
	for name, b := range classicBombs(size) {
		streams["classic "+name] = b
	}
	array := newClassic().config("pc").open(4, 3, "dev", 0, 1).raw(make([]byte, 2*size)...).footer(3).raw(0)
	desc := fmt.Sprintf(`{"devices": [{"name": "dev", "instance_id": 0, "fields": [{"name": "a", "type": "uint8", "size": 1, "array_len": %d}]}]}`, 2*size)
	streams["many fields"] = array.raw(6).be32(uint32(len(desc))).raw([]byte(desc)...).Bytes()
	for name, b := range streams {
		for kind, run := range map[string]func(){
			"to BER":     func() { migschema.ToBER(io.Discard, bytes.NewReader(b), &migschema.ConvertOptions{Typed: true}) },
			"to classic": func() { migschema.ToClassic(io.Discard, bytes.NewReader(b), nil) },
			"stats":      func() { migschema.ReadStats(bytes.NewReader(b), nil) },
			"ram":        func() { migschema.ReadRAM(nowhere{}, bytes.NewReader(b), nil, nil) },
			"dump": func() {
				for range migschema.Dump(bytes.NewReader(b), nil) {
				}
			},
		} {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			run()
			took := time.Since(start)
			runtime.ReadMemStats(&after)
			// A dump makes a path for each line, and drops it.
			if got := after.TotalAlloc - before.TotalAlloc; got > bombLimit(b) && kind != "dump" {
				t.Errorf("%s, %s: took %d MiB in all", name, kind, got>>20)
			}
			if took > 20*time.Second {
				t.Errorf("%s, %s: took %v", name, kind, took)
			}
		}
	}
}
