package libxlfmt

import (
	"bufio"
	"context"
	"errors"
	"io"

	"github.com/virtfmt/virtfmt/internal/block"
)

// VerifyOptions say what [Verify] holds a stream to. The zero value, and nil,
// are the defaults.
type VerifyOptions struct {
	// Options are those of the reading. Report, if set, is called for every
	// finding as well, and may end the reading with an error. Partial and Size
	// mean nothing here.
	Options

	// MaxFindings is how many findings are kept, at least 1; more are counted.
	// The default is 1000.
	MaxFindings int
}

// A VerifyResult is what [Verify] found.
type VerifyResult struct {
	Findings []Finding // in the order of the stream
	Total    int64     // findings, kept or not
	Bad      int64     // findings that the profile refuses
	Records  int64     // records that were read
	Length   int64     // of the stream in bytes, up to its END or where it broke
	Trailing int64     // bytes behind END
	End      End       // how the stream ended; [Unfinished] if it broke
}

// OK reports whether the stream is complete and no finding is bad.
func (r *VerifyResult) OK() bool { return r.Bad == 0 && r.End != Unfinished }

const defaultMaxFindings = 1000

// Verify reads r to its end and lists how it deviates from the specification
// and whether the profile lets that pass, as far as the stream can be followed.
// It does not look at the contents of pages, and seeks over them where r is an
// [io.Seeker]; it reads ahead. An error says that r could not be read, or that
// ctx ended or Report refused to go on.
func Verify(ctx context.Context, r io.Reader, o *VerifyOptions) (*VerifyResult, error) {
	v := verification{ctx: ctx, max: defaultMaxFindings}
	var opt Options
	if o != nil {
		opt, v.tell = o.Options, o.Report
		if o.MaxFindings > 0 {
			v.max = o.MaxFindings
		}
	}
	opt.Report = v.report
	src := ahead(r)
	err := v.records(src, &opt)
	if err == nil {
		v.res.Trailing, err = v.trailing(src, opt.Profile)
	}
	var fe *FormatError
	if err != nil && !errors.As(err, &fe) {
		return nil, err
	}
	return &v.res, nil
}

type verification struct {
	ctx  context.Context
	tell func(Finding) error
	max  int
	res  VerifyResult
}

func (v *verification) report(f Finding) error {
	v.res.Total++
	if f.Bad {
		v.res.Bad++
	}
	if len(v.res.Findings) < v.max {
		v.res.Findings = append(v.res.Findings, f)
	}
	if v.tell != nil {
		return v.tell(f)
	}
	return nil
}

// records reads the stream to its end.
func (v *verification) records(src io.Reader, opt *Options) error {
	r, err := NewReader(src, opt)
	for err == nil {
		if err = v.ctx.Err(); err != nil {
			break
		}
		v.res.Length = r.Offset()
		if _, err = r.Next(); err == nil {
			v.res.Records++
		}
	}
	if err != io.EOF {
		return err
	}
	v.res.End, v.res.Length = r.End(), r.Offset()
	return nil
}

// trailing counts what follows the stream.
func (v *verification) trailing(src io.Reader, p Profile) (int64, error) {
	if v.res.End != Ended {
		return 0, nil
	}
	n, err := v.rest(src)
	if err != nil || n == 0 {
		return n, err
	}
	j := judge{profile: p, tell: v.report}
	return n, j.found(CodeTrailing, v.res.Length, "stream", "%d bytes behind its end", n)
}

// rest returns how many bytes src holds yet.
func (v *verification) rest(src io.Reader) (int64, error) {
	if w, ok := src.(*window); ok {
		return max(0, w.size-w.pos), nil
	}
	s := source{r: src}
	for v.ctx.Err() == nil {
		_, err := s.read(s.scratch(junkSize))
		if err == io.EOF {
			return s.off, nil
		}
		if err != nil {
			return s.off, err
		}
	}
	return s.off, v.ctx.Err()
}

// ahead returns r so that small reads of it are cheap.
func ahead(r io.Reader) io.Reader {
	if r == nil {
		return nil
	}
	if at, ok := r.(io.ReaderAt); ok {
		if s, ok := r.(io.Seeker); ok {
			here, err := s.Seek(0, io.SeekCurrent)
			if err == nil {
				if size, err := block.Length(r); err == nil && size >= here {
					return newWindow(at, here, size)
				}
			}
		}
	}
	return bufio.NewReaderSize(r, junkSize)
}
