package cursor_test

import (
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"github.com/virtfmt/virtfmt/internal/cursor"
)

func TestCursor(t *testing.T) {
	b := []byte{1, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 'a', 'b', 'c'}
	c := cursor.New(binary.BigEndian, "record", 0x100, b)
	got := struct {
		a uint8
		b uint16
		c uint32
		d uint64
		e string
	}{c.Uint8(), c.Uint16(), c.Uint32(), c.Uint64(), string(c.Bytes(2))}
	if got.a != 1 || got.b != 2 || got.c != 3 || got.d != 4 || got.e != "ab" {
		t.Errorf("decoded %+v", got)
	}
	if c.Err() != nil || c.Len() != 1 || c.Offset() != 0x111 {
		t.Errorf("err %v, %d bytes left, offset %#x", c.Err(), c.Len(), c.Offset())
	}
}

func TestFirstErrorSticks(t *testing.T) {
	c := cursor.New(binary.LittleEndian, "record", 0x40, make([]byte, 6))
	c.Uint32()
	if c.Uint32() != 0 || c.Uint8() != 0 || c.Rest() != nil {
		t.Error("a read past the end gave data")
	}
	var e *cursor.Error
	if !errors.As(c.Err(), &e) || e.Offset != 0x44 || e.Want != 4 || e.Have != 2 {
		t.Fatalf("error %+v", c.Err())
	}
	if !errors.Is(c.Err(), io.ErrUnexpectedEOF) {
		t.Error("not io.ErrUnexpectedEOF")
	}
	if want := "record at 0x44: want 4 bytes, have 2"; c.Err().Error() != want {
		t.Errorf("text %q, want %q", c.Err(), want)
	}
}

func TestNegativeLength(t *testing.T) {
	c := cursor.New(binary.BigEndian, "record", 0, make([]byte, 8))
	if c.Bytes(-1) != nil || c.Err() == nil {
		t.Error("a negative length was taken")
	}
}

func TestViewCannotGrowIntoTheRest(t *testing.T) {
	b := []byte{1, 2, 3, 4}
	v := cursor.New(binary.BigEndian, "record", 0, b).Bytes(2)
	_ = append(v, 9)
	if b[2] != 3 {
		t.Error("append to a view overwrote the next field")
	}
}
