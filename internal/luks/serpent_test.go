package luks

import (
	"bytes"
	"encoding/hex"
	"testing"
)

// serpentTables are the S-boxes of the cipher's definition.
var serpentTables = [8][16]uint8{
	{3, 8, 15, 1, 10, 6, 5, 11, 14, 13, 4, 2, 7, 0, 9, 12},
	{15, 12, 2, 7, 9, 0, 5, 10, 1, 11, 14, 8, 6, 13, 3, 4},
	{8, 6, 7, 9, 3, 12, 10, 15, 13, 1, 14, 4, 0, 11, 5, 2},
	{0, 15, 11, 8, 12, 9, 6, 3, 13, 1, 2, 4, 10, 7, 5, 14},
	{1, 15, 8, 3, 12, 0, 11, 6, 2, 5, 4, 10, 9, 14, 7, 13},
	{15, 5, 2, 11, 4, 10, 9, 12, 0, 3, 14, 8, 13, 6, 7, 1},
	{7, 2, 12, 5, 8, 4, 6, 11, 14, 9, 1, 15, 13, 3, 10, 0},
	{1, 13, 15, 0, 14, 8, 2, 11, 7, 4, 12, 10, 9, 3, 5, 6},
}

func TestSerpentBoxes(t *testing.T) {
	type box = func(a, b, c, d uint32) (uint32, uint32, uint32, uint32)
	forward := [8]box{sBox0, sBox1, sBox2, sBox3, sBox4, sBox5, sBox6, sBox7}
	inverse := [8]box{invBox0, invBox1, invBox2, invBox3, invBox4, invBox5, invBox6, invBox7}
	at := func(f box, x uint8) uint8 {
		// The index stands in bit 5 of the words, its complement elsewhere.
		w := func(i int) uint32 {
			if x>>i&1 == 1 {
				return 1 << 5
			}
			return ^uint32(1 << 5)
		}
		a, b, c, d := f(w(0), w(1), w(2), w(3))
		return uint8(a>>5&1 | b>>5&1<<1 | c>>5&1<<2 | d>>5&1<<3)
	}
	for i, table := range serpentTables {
		for x, y := range table {
			if got := at(forward[i], uint8(x)); got != y {
				t.Errorf("S%d(%d) = %d, want %d", i, x, got, y)
			}
			if got := at(inverse[i], y); got != uint8(x) {
				t.Errorf("inverse S%d(%d) = %d, want %d", i, y, got, x)
			}
		}
	}
}

// From the NESSIE test suite, one vector a key length.
func TestSerpentVectors(t *testing.T) {
	for _, v := range []struct{ key, plain, want string }{
		{"80000000000000000000000000000000", "00000000000000000000000000000000", "264E5481EFF42A4606ABDA06C0BFDA3D"},
		{"000102030405060708090A0B0C0D0E0F1011121314151617", "00112233445566778899AABBCCDDEEFF", "6AB816C82DE53B93005008AFA2246A02"},
		{"000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F", "00112233445566778899AABBCCDDEEFF", "2868B7A2D28ECD5E4FDEFAC3C4330074"},
	} {
		key, _ := hex.DecodeString(v.key)
		plain, _ := hex.DecodeString(v.plain)
		want, _ := hex.DecodeString(v.want)
		s, err := newSerpent(key)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 16)
		s.Encrypt(got, plain)
		if !bytes.Equal(got, want) {
			t.Errorf("key %s: %X, want %s", v.key, got, v.want)
		}
		s.Decrypt(got, got)
		if !bytes.Equal(got, plain) {
			t.Errorf("key %s: decrypts to %X", v.key, got)
		}
	}
	if _, err := newSerpent(make([]byte, 20)); err == nil {
		t.Error("a key of 20 bytes was taken")
	}
}
