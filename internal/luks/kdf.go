package luks

import (
	"context"
	"crypto/hmac"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"hash"
	"time"
)

// DefaultMaxIterations bounds the iterations of one key derivation that a
// header may ask for. A program that follows the customary two seconds asks
// for five to ten million on today's machines.
const DefaultMaxIterations = 1 << 26

// pollEvery is how many iterations pass between two looks at the context.
const pollEvery = 1 << 13

// pbkdf2 fills out with the key that RFC 8018 section 5.2 derives from a
// password with HMAC over newHash. It stops when ctx ends.
//
// Preconditions: iterations >= 1.
func pbkdf2(ctx context.Context, newHash func() hash.Hash, password, salt []byte, iterations uint32, out []byte) error {
	mac := hmac.New(newHash, password)
	size := mac.Size()
	u, t := make([]byte, 0, size), make([]byte, size)
	defer func() {
		clear(u[:size])
		clear(t)
	}()
	for block := uint32(1); len(out) > 0; block++ {
		mac.Reset()
		mac.Write(salt)
		mac.Write(binary.BigEndian.AppendUint32(nil, block))
		u = mac.Sum(u[:0])
		copy(t, u)
		for i := uint32(1); i < iterations; i++ {
			if i%pollEvery == 0 && ctx.Err() != nil {
				return fmt.Errorf("key derivation: %w", context.Cause(ctx))
			}
			mac.Reset()
			mac.Write(u)
			u = mac.Sum(u[:0])
			subtle.XORBytes(t, t, u)
		}
		out = out[copy(out, t):]
	}
	return nil
}

// timedIterations returns how many iterations fill a key of n bytes in about
// the given time on this machine.
func timedIterations(ctx context.Context, newHash func() hash.Hash, n int, want time.Duration) (uint32, error) {
	const enough = 50 * time.Millisecond
	out := make([]byte, n)
	for trial := uint32(1 << 12); ; trial *= 2 {
		start := time.Now()
		if err := pbkdf2(ctx, newHash, []byte("password"), []byte("salt"), trial, out); err != nil {
			return 0, err
		}
		took := time.Since(start)
		if took >= enough || trial >= DefaultMaxIterations/2 {
			count := float64(trial) * float64(want) / float64(max(took, 1))
			return uint32(min(count, DefaultMaxIterations)), nil
		}
	}
}
