package luks_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/virtfmt/virtfmt/internal/luks"
	"github.com/virtfmt/virtfmt/internal/safeio"
)

// area is a volume in memory.
type area struct {
	b     []byte
	syncs int
	fail  error // of every write, if not nil
}

func (a *area) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(a.b).ReadAt(p, off)
}

func (a *area) WriteAt(p []byte, off int64) (int, error) {
	if a.fail != nil {
		return 0, a.fail
	}
	if need := off + int64(len(p)); need > int64(len(a.b)) {
		a.b = append(a.b, make([]byte, need-int64(len(a.b)))...)
	}
	return copy(a.b[off:], p), nil
}

func (a *area) Sync() error {
	a.syncs++
	return nil
}

// reproducible returns options that make the same volume every time, with
// derivation as cheap as it gets.
func reproducible() *luks.Options {
	return &luks.Options{Iterations: 3, Rand: rand.NewChaCha8([32]byte{1})}
}

func newVolume(tb testing.TB, s luks.Spec, passphrases ...string) (*area, *luks.Header, []byte) {
	tb.Helper()
	o := reproducible()
	h, key, err := luks.New(tb.Context(), s, o)
	if err != nil {
		tb.Fatal(err)
	}
	a := &area{b: make([]byte, h.PayloadOffset)}
	for i, p := range passphrases {
		if err := h.AddKey(tb.Context(), a, i, key, []byte(p), o); err != nil {
			tb.Fatal(err)
		}
	}
	return a, h, key
}

func reread(tb testing.TB, a *area) *luks.Header {
	tb.Helper()
	h, err := luks.Read(a, int64(len(a.b)))
	if err != nil {
		tb.Fatal(err)
	}
	return h
}

func TestSlots(t *testing.T) {
	a, h, key := newVolume(t, luks.Spec{}, "first", "second")
	if h.Spec != luks.DefaultSpec {
		t.Errorf("the default is %+v", h.Spec)
	}
	opens := func(passphrase string, slot int) {
		t.Helper()
		got, i, err := reread(t, a).Unlock(t.Context(), a, []byte(passphrase), 0)
		if slot < 0 {
			if err != luks.ErrPassphrase || got != nil {
				t.Errorf("%q: slot %d, %v", passphrase, i, err)
			}
			return
		}
		if err != nil || i != slot || !bytes.Equal(got, key) {
			t.Errorf("%q: slot %d, %v; want slot %d", passphrase, i, err, slot)
		}
	}
	opens("first", 0)
	opens("second", 1)
	opens("third", -1)
	opens("", -1)

	if err := h.EraseKey(a, 0, reproducible()); err != nil {
		t.Fatal(err)
	}
	opens("first", -1)
	opens("second", 1)
	for i := 2; i < luks.Slots; i++ {
		if err := h.AddKey(t.Context(), a, i, key, fmt.Append(nil, "pass", i), reproducible()); err != nil {
			t.Fatal(err)
		}
	}
	opens("pass7", 7)
	opens("second", 1)

	for _, slot := range []int{-1, 1, luks.Slots} {
		if err := h.AddKey(t.Context(), a, slot, key, []byte("x"), reproducible()); err == nil {
			t.Errorf("AddKey to slot %d succeeded", slot)
		}
	}
	for _, slot := range []int{-1, 0, luks.Slots} {
		if err := h.EraseKey(a, slot, nil); err == nil {
			t.Errorf("EraseKey of slot %d succeeded", slot)
		}
	}
	if err := h.AddKey(t.Context(), a, 0, key[1:], []byte("x"), reproducible()); err == nil {
		t.Error("AddKey of a key of another length succeeded")
	}
}

func TestFailedAddKeyChangesNothing(t *testing.T) {
	a, h, key := newVolume(t, luks.Spec{}, "first")
	was, boom := *h, errors.New("boom")
	a.fail = boom
	if err := h.AddKey(t.Context(), a, 1, key, []byte("x"), reproducible()); !errors.Is(err, boom) {
		t.Errorf("a failed write gave %v", err)
	}
	if *h != was {
		t.Error("the header changed")
	}
}

func TestHeaderRoundTrip(t *testing.T) {
	a, h, _ := newVolume(t, luks.Spec{Cipher: "twofish", Mode: "cbc-essiv:sha256", Hash: "sha512", KeyBytes: 16}, "a", "b", "c")
	b := h.Append(nil)
	if len(b) != luks.HeaderSize || !bytes.Equal(b, a.b[:len(b)]) {
		t.Error("Append does not give what AddKey stored")
	}
	if got := reread(t, a); *got != *h {
		t.Errorf("read %+v\nwrote %+v", got, h)
	}
}

// The bytes of a volume made from fixed random numbers do not change from
// version to version.
func TestReproducible(t *testing.T) {
	a, _, _ := newVolume(t, luks.Spec{}, "first", "second")
	sum := sha256.Sum256(a.b)
	if got, want := hex.EncodeToString(sum[:8]), "62ee0919c6d1ec80"; got != want {
		t.Errorf("sha256 starts %s, want %s", got, want)
	}
}

func TestDerivationStops(t *testing.T) {
	a, h, key := newVolume(t, luks.Spec{}, "first")
	h.Slot[0].Iterations = luks.DefaultMaxIterations
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, _, err := h.Unlock(ctx, a, []byte("first"), 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with a deadline: %v", err)
	}
	_, _, err := h.Unlock(t.Context(), a, []byte("first"), 1000)
	if fe := (*luks.Error)(nil); !errors.As(err, &fe) || !errors.Is(err, safeio.ErrLimit) || fe.Offset != 212 {
		t.Errorf("over the limit: %v", err)
	}
	h.Slot[0].Iterations, h.DigestIterations = 3, 5000
	if _, _, err := h.Unlock(t.Context(), a, []byte("first"), 1000); !errors.Is(err, safeio.ErrLimit) {
		t.Errorf("digest over the limit: %v", err)
	}
	if err := h.AddKey(ctx, a, 1, key, []byte("x"), nil); !errors.Is(err, context.DeadlineExceeded) || h.Slot[1].Active {
		t.Errorf("AddKey after its deadline: %v", err)
	}
	if _, _, err := luks.New(ctx, luks.Spec{}, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("New after its deadline: %v", err)
	}
}

func TestTimedIterations(t *testing.T) {
	h, _, err := luks.New(t.Context(), luks.Spec{}, &luks.Options{IterTime: time.Millisecond})
	if err != nil || h.DigestIterations < 1000 {
		t.Errorf("%v, %v", h, err)
	}
}

// hostile are headers that must be refused, each a patch of a good one.
var hostile = []struct {
	name  string
	off   int
	patch string // hex
	field string
}{
	{"magic", 0, "4c554b54", "magic"},
	{"version 2", 6, "0002", "version"},
	{"unknown cipher", 8, "61657400", "cipher"},
	{"unknown mode", 40, "78747400", "cipher"},
	{"unknown hash", 72, "7368613900", "hash"},
	{"payload in the header", 104, "00000001", "payload offset"},
	{"payload before the key material", 104, "00000008", "key material offset"},
	{"no key", 108, "00000000", "key bytes"},
	{"odd key", 108, "0000003f", "cipher"},
	{"huge key", 108, "ffffffff", "key bytes"},
	{"digest without iterations", 164, "00000000", "digest iterations"},
	{"slot state", 208, "00000001", "key slot state"},
	{"slot without iterations", 212, "00000000", "key slot iterations"},
	{"key material in the header", 248, "00000001", "key material offset"},
	{"key material past the payload", 248, "ffffffff", "key material offset"},
	{"key material of two slots", 248 + 48, "00000009", "key material offset"},
	{"no stripes", 252, "00000000", "key slot stripes"},
	{"many stripes", 252 + 7*48, "ffffffff", "key slot stripes"},
}

func TestHostileHeaders(t *testing.T) {
	a, _, _ := newVolume(t, luks.Spec{}, "first")
	for _, c := range hostile {
		b := bytes.Clone(a.b)
		patch, err := hex.DecodeString(c.patch)
		if err != nil {
			t.Fatal(err)
		}
		copy(b[c.off:], patch)
		_, err = luks.Read(bytes.NewReader(b), int64(len(b)))
		if fe := (*luks.Error)(nil); !errors.As(err, &fe) || fe.Field != c.field {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	for _, n := range []int{0, 591, 592, 4096, len(a.b) - 4096} {
		if _, err := luks.Read(bytes.NewReader(a.b), int64(n)); err == nil {
			t.Errorf("a header of which %d bytes belong to LUKS was taken", n)
		}
	}
	if _, err := luks.Read(bytes.NewReader(a.b[:500]), int64(len(a.b))); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut in the header: %v", err)
	}
	h := reread(t, a)
	if _, _, err := h.Unlock(t.Context(), bytes.NewReader(a.b[:5000]), []byte("first"), 0); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut in the key material: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	a, _, _ := newVolume(f, luks.Spec{}, "first")
	f.Add(a.b[:luks.HeaderSize], int64(len(a.b)))
	for _, c := range hostile {
		b := bytes.Clone(a.b[:luks.HeaderSize])
		patch, _ := hex.DecodeString(c.patch)
		copy(b[c.off:], patch)
		f.Add(b, int64(len(a.b)))
	}
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		h, err := luks.Read(bytes.NewReader(b), size)
		if err != nil {
			return
		}
		got := h.Append(nil)
		again, err := luks.Read(bytes.NewReader(got), size)
		if err != nil || *again != *h {
			t.Errorf("read %+v, then %+v, %v", h, again, err)
		}
		if _, _, err := h.Unlock(t.Context(), bytes.NewReader(b), []byte("x"), 10); err == nil {
			t.Error("a header without key material opened")
		}
		if binary.BigEndian.Uint16(got[6:]) != 1 {
			t.Error("another version")
		}
	})
}

func BenchmarkUnlock(b *testing.B) {
	a, h, key := newVolume(b, luks.Spec{}, "first")
	if err := h.AddKey(b.Context(), a, 1, key, []byte("second"), &luks.Options{Iterations: 1 << 16}); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, _, err := h.Unlock(b.Context(), a, []byte("second"), 0); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(2<<16), "ns/iteration")
}
