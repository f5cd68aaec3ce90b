package migschema_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/migschema"
)

// mutated returns b with some octets changed, taken out, put in or doubled.
func mutated(r *rand.Rand, b []byte) []byte {
	b = bytes.Clone(b)
	for range 1 + r.IntN(4) {
		// Most of a stream is pages, and most of its structure about its ends.
		at := r.IntN(len(b))
		if near := min(600, len(b)); r.IntN(2) == 0 {
			at = r.IntN(near)
		} else if r.IntN(2) == 0 {
			at = len(b) - 1 - r.IntN(len(b)-len(b)/3)
		}
		n := min(1+r.IntN(16), len(b)-at)
		switch r.IntN(6) {
		case 0:
			b[at] ^= 1 << r.IntN(8)
		case 1:
			b[at] = byte(r.Uint32())
		case 2:
			b[at] = []byte{0, 1, 0x7f, 0x80, 0xff, 4, 0x10, 0x7e}[r.IntN(8)]
		case 3:
			b = append(b[:at], b[at+n:]...)
		case 4:
			b = append(b[:at:at], append(bytes.Clone(b[at:at+n]), b[at:]...)...)
		case 5:
			b = b[:at+1]
		}
		if len(b) == 0 {
			return b
		}
	}
	return b
}

// checkMutations damages a stream in n ways: nothing panics or takes long, an
// error has its place, and what converts still converts without loss.
func checkMutations(t *testing.T, r *rand.Rand, stream []byte, n int) {
	t.Helper()
	for i := range n {
		b := mutated(r, stream)
		start := time.Now()
		for name, err := range map[string]error{
			"stats": func() error { _, err := migschema.ReadStats(bytes.NewReader(b), nil); return err }(),
			"ram":   func() error { _, err := migschema.ReadRAM(nowhere{}, bytes.NewReader(b), nil, nil); return err }(),
			"dump":  func() error { _, err := dumped(bytes.NewReader(b), nil); return err }(),
		} {
			if err != nil && !strings.HasPrefix(err.Error(), "migschema: ") {
				t.Errorf("%d: %s: %v", i, name, err)
			}
		}
		typed := r.IntN(2) == 0
		if migschema.Detect(b) == migschema.BER {
			var out bytes.Buffer
			if _, err := migschema.ToClassic(&out, bytes.NewReader(b), nil); err != nil && !strings.HasPrefix(err.Error(), "migschema: ") {
				t.Errorf("%d: to classic: %v", i, err)
			}
		} else if _, back, report, err := roundTrip(b, &migschema.ConvertOptions{Typed: typed}); err == nil {
			if len(report.Losses) == 0 && !bytes.Equal(back, b) {
				t.Errorf("%d: came back otherwise", i)
			}
		} else if strings.HasPrefix(err.Error(), "back:") {
			t.Errorf("%d: %v", i, err)
		}
		if took := time.Since(start); took > time.Minute {
			t.Errorf("%d: took %v", i, took)
		}
	}
}

// nowhere is an image of RAM that is not kept.
type nowhere struct{}

func (nowhere) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

func (nowhere) ReadAt(p []byte, _ int64) (int, error) { return len(p), nil }

func TestMutations(t *testing.T) {
	r := rand.New(rand.NewPCG(difftest.Seed(t, 77), 0))
	streams := [][]byte{noneMig(t), everyRecord(), convertible(t)}
	for _, b := range streams {
		for _, form := range convertForms {
			var ber bytes.Buffer
			_, err := migschema.ToBER(&ber, bytes.NewReader(b), &migschema.ConvertOptions{Form: form, Typed: true, Lossy: true})
			if err != nil && !errors.Is(err, migschema.CodeCompressed) {
				t.Fatal(err)
			}
			if err == nil {
				streams = append(streams, ber.Bytes())
			}
		}
	}
	for _, b := range streams {
		checkMutations(t, r, b, difftest.Scale(t, 400))
	}
}
