package block

import "bytes"

// zeros is what data is compared with, a piece at a time, and what is written
// where zeros have to be written.
var zeros [64 << 10]byte

// IsZero reports whether p holds nothing but zeros.
func IsZero(p []byte) bool {
	const piece = 4 << 10 // stays in the cache beside p
	for len(p) > piece {
		if !bytes.Equal(p[:piece], zeros[:piece]) {
			return false
		}
		p = p[piece:]
	}
	return bytes.Equal(p, zeros[:len(p)])
}

// nextStored returns the first range of p that is not zeros: whole pieces of
// grain bytes, the last of which ends where p does. At the end of p start and
// end are len(p).
//
// Preconditions: grain > 0.
func nextStored(p []byte, grain int) (start, end int) {
	for start < len(p) && IsZero(p[start:min(start+grain, len(p))]) {
		start = min(start+grain, len(p))
	}
	end = start
	for end < len(p) && !IsZero(p[end:min(end+grain, len(p))]) {
		end = min(end+grain, len(p))
	}
	return start, end
}
