// Package align rounds offsets and sizes to powers of two.
package align

import "golang.org/x/exp/constraints"

// IsPow2 reports whether n is a positive power of two.
func IsPow2[T constraints.Integer](n T) bool { return n > 0 && n&(n-1) == 0 }

// Down rounds n down to a multiple of unit.
//
// Preconditions: unit is a power of two and n >= 0.
func Down[T constraints.Integer](n, unit T) T { return n &^ (unit - 1) }

// Up rounds n up to a multiple of unit. The result wraps where n is within
// unit of the type's maximum; a size that a file claims goes through [CeilDiv]
// or a limit first.
//
// Preconditions: unit is a power of two and n >= 0.
func Up[T constraints.Integer](n, unit T) T { return (n + unit - 1) &^ (unit - 1) }

// IsAligned reports whether n is a multiple of unit.
//
// Preconditions: unit is a power of two.
func IsAligned[T constraints.Integer](n, unit T) bool { return n&(unit-1) == 0 }

// CeilDiv returns n/d rounded up. It does not overflow.
//
// Preconditions: n >= 0 and d > 0.
func CeilDiv[T constraints.Integer](n, d T) T {
	q := n / d
	if n%d != 0 {
		q++
	}
	return q
}
