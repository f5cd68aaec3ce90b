package corpus_test

import (
	"bytes"
	"compress/flate"
	"crypto/sha256"
	"fmt"
	"testing"
	"testing/iotest"

	"github.com/virtfmt/virtfmt/internal/corpus"
)

func TestSameEachTime(t *testing.T) {
	for _, c := range []struct{ name, got, want string }{
		{"text", sum(corpus.Bytes(corpus.Text(1), 100_000)), "1885bee649104856"},
		{"noise", sum(corpus.Bytes(corpus.Noise(1), 100_000)), "5852e2887de1701e"},
		{"noise in bits", sum(corpus.Bytes(iotest.OneByteReader(corpus.Noise(1)), 100_000)), "5852e2887de1701e"},
		{"text in bits", sum(corpus.Bytes(iotest.OneByteReader(corpus.Text(1)), 100_000)), "1885bee649104856"},
	} {
		if c.got != c.want {
			t.Errorf("%s: sha256 starts with %s, want %s", c.name, c.got, c.want)
		}
	}
}

func sum(p []byte) string { return fmt.Sprintf("%.8x", sha256.Sum256(p)) }

func TestTextCompressesToHalf(t *testing.T) {
	p := corpus.Bytes(corpus.Text(7), 1<<18)
	size := 0
	for i := 0; i < len(p); i += 1 << 16 {
		var out bytes.Buffer
		w, _ := flate.NewWriter(&out, 6)
		w.Write(p[i : i+1<<16])
		w.Close()
		size += out.Len()
	}
	if r := float64(size) / float64(len(p)); r < 0.44 || r > 0.47 {
		t.Errorf("compresses to %.3f of its size", r)
	}
}
