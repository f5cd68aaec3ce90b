package imgopen

import (
	"errors"
	"math"
	"strconv"
	"strings"
)

// The ways in which a size can be wrong.
var (
	ErrSize      = errors.New("not a size")
	ErrSizeRange = errors.New("size out of range")
)

// ParseSize parses a number of bytes as QEMU's tools do: decimal or, after 0x,
// hexadecimal, and with decimals where a suffix b, k, M, G, T, P or E, of
// either case, makes them bytes.
func ParseSize(text string) (int64, error) {
	text = strings.TrimPrefix(strings.TrimLeft(text, " \t\n\v\f\r"), "+")
	if text == "" {
		return 0, ErrSize
	}
	hex := strings.HasPrefix(text, "0x") || strings.HasPrefix(text, "0X")
	suffixes := "BKMGTPE"
	if hex {
		suffixes = "\x00KMGTP" // B and E are digits
	}
	shift := 0
	if i := strings.IndexByte(suffixes, text[len(text)-1]&^0x20); i >= 0 {
		text, shift = text[:len(text)-1], 10*i
	}
	if hex {
		return scaled(text[2:], 16, shift, 0)
	}
	whole, fraction, ok := strings.Cut(text, ".")
	if !ok {
		return scaled(whole, 10, shift, 0)
	}
	if strings.Trim(fraction, "0123456789") != "" {
		return 0, ErrSize
	}
	part, err := strconv.ParseFloat("0."+fraction+"0", 64)
	if err != nil || part > 0 && shift == 0 {
		return 0, ErrSize
	}
	return scaled(whole, 10, shift, int64(math.Round(part*float64(int64(1)<<shift))))
}

// scaled parses a whole number of units of 1<<shift, to which more is added.
func scaled(digits string, base, shift int, more int64) (int64, error) {
	n, err := strconv.ParseUint(digits, base, 64)
	switch {
	case errors.Is(err, strconv.ErrRange) || err == nil && n > uint64(math.MaxInt64-more)>>shift:
		return 0, ErrSizeRange
	case err != nil:
		return 0, ErrSize
	}
	return int64(n)<<shift + more, nil
}
