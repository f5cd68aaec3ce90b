package mutant_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/internal/mutant"
)

// TestMutate: only what is listed changes, all of it does at some time, and
// what is told is what was done.
func TestMutate(t *testing.T) {
	fields := append(mutant.Fields("word", 8, 4, 8), mutant.Fields("byte", 60, 2, 1)...)
	random := rand.New(rand.NewPCG(1, 2))
	var changed [64]bool
	for range 2000 {
		b, what := mutant.Mutate(random, binary.LittleEndian, make([]byte, 64), 16, fields)
		if len(b) != 64 && !strings.Contains(what, "bytes") {
			t.Fatalf("%d bytes: %s", len(b), what)
		}
		for i, v := range b[:min(64, len(b))] {
			changed[i] = changed[i] || v != 0
		}
	}
	for i, c := range changed {
		if want := i >= 8 && i < 40 || i == 60 || i == 61; c != want {
			t.Errorf("byte %d changed: %t", i, c)
		}
	}
}

func TestMutateIsRepeatable(t *testing.T) {
	one := func() ([]byte, string) {
		return mutant.Mutate(rand.New(rand.NewPCG(5, 5)), binary.BigEndian, make([]byte, 64), 16, mutant.Fields("word", 0, 8, 4))
	}
	b, what := one()
	c, again := one()
	if !bytes.Equal(b, c) || what != again {
		t.Errorf("%s, then %s", what, again)
	}
}

var sink []byte

func TestStep(t *testing.T) {
	var s mutant.Stats
	tr := mutant.Trial{TB: t, Stats: &s}
	tr.Step("small", func() { sink = make([]byte, 1000) })
	tr.Step("large", func() { sink = make([]byte, 1<<20) })
	if s.Step != "large" || s.Memory < 1<<20 || s.Memory > 2<<20 {
		t.Errorf("%v", &s)
	}
}
