package vma

import (
	"cmp"
	"context"
	"errors"
	"io"
)

// Verify checks the archive r: the checksums and uuid of the header and of
// every extent, counts, ranges, duplicate and missing clusters, reserved
// fields, and what follows the last extent. It reads the headers and not the
// data, of which the format has no checksum. It goes on after damage, so that
// the report names all of it, with Profile deciding what counts as an
// [Error].
//
// Verify finds more than Proxmox's "vma verify", which does not notice missing
// clusters and takes an archive cut between two extents for whole.
//
// The error says that r could not be read to its end or that ctx ended;
// whatever is wrong with the archive is in the report alone.
func Verify(ctx context.Context, r io.ReaderAt, o *Options) (*Report, error) {
	opt := o.withDefaults()
	size, err := opt.length(r)
	if err != nil {
		return nil, err
	}
	w, err := newWalker(ctx, &fileSource{r: r, size: size}, size, opt, true)
	return w.verify(err)
}

// VerifyStream is [Verify] for an archive that can only be read from front to
// back, which costs reading all of it. Under [Salvage] the archive ends where r
// fails: then there is a report as well as an error.
func VerifyStream(ctx context.Context, r io.Reader, o *Options) (*Report, error) {
	opt := o.withDefaults()
	src := &streamSource{r: r, lenient: opt.Profile == Salvage}
	w, err := newWalker(ctx, src, -1, opt, true)
	report, err := w.verify(err)
	return report, cmp.Or(err, src.failed)
}

// verify walks to the end; err is that of newWalker.
func (w *walker) verify(err error) (*Report, error) {
	for err == nil {
		_, err = w.next()
	}
	var bad *FormatError
	if err != io.EOF && !errors.As(err, &bad) {
		return nil, err
	}
	return w.result(), nil
}
