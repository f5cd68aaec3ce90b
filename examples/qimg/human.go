package main

import (
	"fmt"
	"math"
)

// human returns a number of bytes in the largest unit that keeps it at 1000 of
// it or less, with three digits: 1 MiB, 1.5 GiB.
func human(n int64) string {
	const units = " KMGTPE"
	_, exp := math.Frexp(float64(n) / (1000.0 / 1024.0))
	unit := max(0, (exp-1)/10)
	s := fmt.Sprintf("%.3g ", float64(n)/float64(int64(1)<<(10*unit)))
	if unit > 0 {
		s += units[unit:unit+1] + "i"
	}
	return s + "B"
}
