package luks

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"hash"
	"sync"
	"time"

	"github.com/virtfmt/virtfmt/internal/align"
)

// DefaultMaxIterations bounds the iterations of one key derivation that a
// header may ask for. A program that follows the customary two seconds asks
// for five to ten million on today's machines.
const DefaultMaxIterations = 1 << 26

// pollEvery is how many iterations pass between two looks at the context.
const pollEvery = 1 << 13

// pbkdf2 fills out with the key that RFC 8018 section 5.2 derives from a
// password with HMAC over newHash. The blocks of a key that is longer than the
// hash are derived in parallel. It stops when ctx ends.
//
// Preconditions: iterations >= 1.
func pbkdf2(ctx context.Context, newHash func() hash.Hash, password, salt []byte, iterations uint32, out []byte) error {
	var blocks sync.WaitGroup
	size := newHash().Size()
	for index := uint32(1); len(out) > 0; index++ {
		n := min(size, len(out))
		block := out[:n]
		blocks.Go(func() { pbkdf2Block(ctx, hmac.New(newHash, password), salt, iterations, index, block) })
		out = out[n:]
	}
	blocks.Wait()
	if ctx.Err() != nil {
		return fmt.Errorf("key derivation: %w", context.Cause(ctx))
	}
	return nil
}

// pbkdf2Block derives one block of a key, unless ctx ends.
func pbkdf2Block(ctx context.Context, mac hash.Hash, salt []byte, iterations, index uint32, out []byte) {
	u := make([]byte, 0, mac.Size())
	mac.Write(salt)
	mac.Write(binary.BigEndian.AppendUint32(nil, index))
	u = mac.Sum(u)
	t := bytes.Clone(u)
	for i := uint32(1); i < iterations; i++ {
		if i%pollEvery == 0 && ctx.Err() != nil {
			break
		}
		mac.Reset()
		mac.Write(u)
		u = mac.Sum(u[:0])
		subtle.XORBytes(t, t, u)
	}
	copy(out, t)
	clear(u)
	clear(t)
}

// timedIterations returns how many iterations take about the given time on
// one processor of this machine, as other programs count them, for a key of n
// bytes.
func timedIterations(ctx context.Context, newHash func() hash.Hash, n int, want time.Duration) (uint32, error) {
	const enough = 100 * time.Millisecond
	block := make([]byte, newHash().Size())
	blocks := align.CeilDiv(n, len(block))
	for trial := uint32(1 << 12); ; trial *= 2 {
		start := time.Now()
		if err := pbkdf2(ctx, newHash, []byte("password"), []byte("salt"), trial, block); err != nil {
			return 0, err
		}
		took := time.Since(start) * time.Duration(blocks)
		if took >= enough || trial >= DefaultMaxIterations/2 {
			count := float64(trial) * float64(want) / float64(max(took, 1))
			return uint32(min(count, DefaultMaxIterations)), nil
		}
	}
}
