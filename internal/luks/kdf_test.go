package luks

import (
	"bytes"
	stdpbkdf2 "crypto/pbkdf2"
	"crypto/sha1"
	"math/rand/v2"
	"testing"
)

func TestPBKDF2AgainstStd(t *testing.T) {
	for _, n := range []int{1, 19, 20, 21, 64} {
		for _, iterations := range []int{1, 2, 100} {
			want, err := stdpbkdf2.Key(sha1.New, "passphrase", []byte("some salt"), iterations, n)
			if err != nil {
				t.Fatal(err)
			}
			got := make([]byte, n)
			err = pbkdf2(t.Context(), sha1.New, []byte("passphrase"), []byte("some salt"), uint32(iterations), got)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d iterations, %d bytes: %x, want %x (%v)", iterations, n, got, want, err)
			}
		}
	}
}

func TestSplitMerges(t *testing.T) {
	random := rand.NewChaCha8([32]byte{})
	for _, n := range []int{1, 16, 20, 24, 64} {
		for _, count := range []int{1, 2, 17} {
			key := make([]byte, n)
			random.Read(key)
			split, err := afSplit(sha1.New(), random, key, count)
			if err != nil || len(split) != n*count {
				t.Fatalf("%d bytes, %v", len(split), err)
			}
			if got := afMerge(sha1.New(), split, n); !bytes.Equal(got, key) {
				t.Errorf("%d bytes in %d stripes: got %x, want %x", n, count, got, key)
			}
			split[0] ^= 1
			if got := afMerge(sha1.New(), split, n); bytes.Equal(got, key) {
				t.Errorf("%d bytes in %d stripes: one changed bit leaves the key whole", n, count)
			}
		}
	}
}
