package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/virtfmt/virtfmt/migschema"
)

// A report tells how a conversion went, in JSON.
type report struct {
	Typed  int    `json:"typed"`
	Opaque int    `json:"opaque"`
	Losses []loss `json:"losses"`
}

type loss struct {
	What   string `json:"what"`
	Offset int64  `json:"offset"`
	Count  int64  `json:"count"`
}

// formats and forms are what the flags of convert name.
var (
	formats = map[string]migschema.Format{"": migschema.UnknownFormat, "ber": migschema.BER, "classic": migschema.Classic}
	forms   = map[string]migschema.Form{"streamed": migschema.Streamed, "der": migschema.DER, "cer": migschema.CER}
)

func (p *program) convert(args []string) error {
	to := p.flags.String("to", "", "ber or classic; the other one if not given")
	form := p.flags.String("form", "streamed", "how to encode BER: streamed, der (of a file alone) or cer")
	typed := p.flags.Bool("typed", false, "give devices that are described as typed state")
	decompress := p.flags.Bool("decompress", false, "turn compressed pages, which BER cannot say, into full ones")
	lossy := p.flags.Bool("lossy", false, "go on where the other form cannot say something, and report it")
	args, err := p.parse(args, 2, 2)
	if err != nil {
		return err
	}
	format, known := formats[*to]
	f, ok := forms[*form]
	if !known || !ok {
		return errUsage
	}
	o, err := p.options()
	if err != nil {
		return err
	}
	src, done, err := p.open(args[0])
	if err != nil {
		return err
	}
	defer done()
	src, from, err := peek(src)
	if err != nil {
		return err
	}
	if format == migschema.UnknownFormat {
		format = map[migschema.Format]migschema.Format{migschema.Classic: migschema.BER, migschema.BER: migschema.Classic}[from]
	}
	if from == migschema.UnknownFormat {
		return fmt.Errorf("%s is not a migration stream", args[0])
	}
	if from == format {
		return fmt.Errorf("%s is %v already", args[0], format)
	}
	opt := &migschema.ConvertOptions{
		Form: f, Typed: *typed, Decompress: *decompress, Lossy: *lossy, PageSize: p.pageSize, VMDesc: o.VMDesc, Lenient: o.Lenient,
	}
	convert := migschema.ToBER
	if format == migschema.Classic {
		convert = migschema.ToClassic
		if _, ok := src.(io.Seeker); !ok && !*lossy {
			f, err := spool(src)
			if err != nil {
				return err
			}
			defer os.Remove(f.Name())
			defer f.Close()
			src = f
		}
	}
	return p.convertTo(args[1], src, func(dst io.Writer) (*migschema.Report, error) { return convert(dst, src, opt) })
}

// peek returns the format of the stream in src, and a reader of all of it: src
// itself where that can seek.
func peek(src io.Reader) (io.Reader, migschema.Format, error) {
	head := make([]byte, 4)
	n, err := io.ReadFull(src, head)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return nil, 0, err
	}
	format := migschema.Detect(head[:n])
	if s, ok := src.(io.Seeker); ok {
		if _, err := s.Seek(int64(-n), io.SeekCurrent); err == nil {
			return src, format, nil
		}
	}
	return io.MultiReader(bytes.NewReader(head[:n]), src), format, nil
}

// spool copies what cannot seek into a file that can: which part of RAM is the
// last one, and what the devices are, is told by the whole of a stream alone.
func spool(src io.Reader) (*os.File, error) {
	f, err := os.CreateTemp("", "migdump-*")
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(f, src)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		err = errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	return f, err
}

// convertTo writes to a file and tells how it went.
func (p *program) convertTo(name string, src io.Reader, convert func(io.Writer) (*migschema.Report, error)) error {
	if name == "-" {
		r, err := convert(p.out)
		if err != nil {
			return err
		}
		return p.tell(p.err, r)
	}
	var r *migschema.Report
	err := output(name, src, func(f *os.File, _ bool) (err error) {
		r, err = convert(f)
		return err
	})
	if err != nil {
		return err
	}
	return p.tell(p.out, r)
}

// tell prints a report.
func (p *program) tell(w io.Writer, r *migschema.Report) error {
	if p.json {
		j := report{Typed: r.Typed, Opaque: r.Opaque, Losses: []loss{}}
		for _, l := range r.Losses {
			j.Losses = append(j.Losses, loss(l))
		}
		return p.printJSON(w, j)
	}
	fmt.Fprintf(w, "%d typed devices, %d as blobs\n", r.Typed, r.Opaque)
	for _, l := range r.Losses {
		fmt.Fprintln(w, "changed:", l)
	}
	return nil
}
