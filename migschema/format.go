package migschema

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
)

// A Format is a way to lay a migration stream out.
type Format uint8

const (
	// UnknownFormat is no migration stream.
	UnknownFormat Format = iota
	// Classic is the layout that QEMU sends.
	Classic
	// BER is the ASN.1 encoding of the migration schema.
	BER
)

// String returns unknown, classic or ber.
func (f Format) String() string { return [...]string{"unknown", "classic", "ber"}[f%3] }

// formatSize is how many octets tell the format.
const formatSize = 4

// Detect returns the format of the stream that begins with b. Four octets
// tell it.
func Detect(b []byte) Format {
	switch {
	case bytes.HasPrefix(b, []byte(classicMagic)):
		return Classic
	case bytes.HasPrefix(b, appendIdentifier(nil, tagQemuFile, true)):
		return BER
	}
	return UnknownFormat
}

// multifdMagic begins what QEMU sends over the channels of multifd besides the
// first.
const multifdMagic = "\x11\x22\x33\x44"

// foreign says what begins with b, which is neither format.
func foreign(b []byte) error {
	if bytes.HasPrefix(b, []byte(multifdMagic)) {
		return fmt.Errorf("%w: a multifd channel of pages: %w", ErrFormat, errors.ErrUnsupported)
	}
	return ErrFormat
}

// detect returns the format of the stream in r, and a reader of all of it.
func detect(r io.Reader) (Format, io.Reader, error) {
	s := newSource(r, true)
	s.buf = make([]byte, formatSize)
	if !s.has(formatSize) && s.failure() != nil {
		return UnknownFormat, nil, fmt.Errorf("migschema: magic: read at %#x: %w", s.end, s.failure())
	}
	head := s.window()
	f := Detect(head)
	if f == UnknownFormat {
		return f, nil, &FormatError{0, "magic", CodeRecord, foreign(head)}
	}
	return f, io.MultiReader(bytes.NewReader(head), r), nil
}

// StreamOptions says how to read a stream of either format. nil and the zero
// value are the defaults.
type StreamOptions struct {
	PageSize int     // of a page, if 0 what the stream tells, or 4096; a power of two from 1 KiB to 1 MiB
	VMDesc   *VMDesc // describes the device state where the stream does not
	Lenient  Lenient // breaches to bear in a BER stream, trailing data in either
}

// visit reads a stream of either format, whose records must agree with one
// another, and hands on what it finds. It returns the format.
func visit(src io.Reader, o *StreamOptions, event func(*Event) error, record func(*Record) error) (Format, error) {
	if o == nil {
		o = new(StreamOptions)
	}
	format, src, err := detect(src)
	if err != nil {
		return format, err
	}
	if format == BER {
		opt := o.decoder()
		opt.Validate = true
		return format, each(NewDecoder(src, opt).Events(), event)
	}
	opt := o.reader()
	opt.Validate = true
	return format, each(NewReader(src, opt).Records(), record)
}

// decoder returns what o says to a Decoder.
func (o *StreamOptions) decoder() *DecoderOptions {
	return &DecoderOptions{PageSize: o.PageSize, Lenient: o.Lenient}
}

// reader returns what o says to a Reader.
func (o *StreamOptions) reader() *ReaderOptions {
	return &ReaderOptions{PageSize: o.PageSize, VMDesc: o.VMDesc, TrailingData: o.Lenient.TrailingData}
}

// each calls f for what seq yields, up to the first error.
func each[T any](seq iter.Seq2[T, error], f func(T) error) error {
	for v, err := range seq {
		if err == nil {
			err = f(v)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
