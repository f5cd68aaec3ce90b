package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/virtfmt/virtfmt/vma"
)

// maxWindow is what "zstd -d" takes without being told, and "zstd --long"
// makes: 128 MiB.
const maxWindow = 128 << 20

// An input is an archive to be read.
type input struct {
	file    *os.File      // for reading at random, nil for a stream
	stream  io.ReadCloser // nil for a file
	opt     *vma.Options
	archive *vma.Archive // opened by extractor
	toClose []io.Closer
}

// open opens the archive of that name, "-" for standard input.
func (c *command) open(name string, o options) (*input, error) {
	in := &input{opt: &vma.Options{}}
	if o.has('S') {
		in.opt.Profile = vma.Salvage
	}
	r := c.stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		in.toClose = append(in.toClose, f)
		r = f
		if fi, err := f.Stat(); err == nil && fi.Mode().IsRegular() {
			in.file = f
		}
	}
	// A file is read at random unless it is compressed.
	if in.file != nil {
		// An error, as of lzo without a decoder, comes again below.
		d, compression, err := vma.Decompress(io.NewSectionReader(in.file, 0, 64), nil)
		if err == nil {
			d.Close()
		}
		if err == nil && compression == vma.Uncompressed {
			return in, nil
		}
		in.file = nil
	}
	d, _, err := vma.Decompress(r, &vma.DecompressOptions{LZO: lzop, MaxWindow: maxWindow})
	if err != nil {
		return nil, errors.Join(err, in.close())
	}
	in.stream = d
	in.toClose = append(in.toClose, d)
	return in, nil
}

func (in *input) close() (err error) {
	for i := len(in.toClose) - 1; i >= 0; i-- {
		err = errors.Join(err, in.toClose[i].Close())
	}
	return err
}

// header reads the header alone.
func (in *input) header() (vma.Header, error) {
	var r io.Reader = in.stream
	if in.file != nil {
		r = in.file
	}
	rd, err := vma.NewReader(r, in.opt)
	if err != nil {
		return vma.Header{}, err
	}
	return rd.Header(), nil
}

// extractor returns the archive to extract from.
func (in *input) extractor(c *command) (vma.Extractor, error) {
	if in.file == nil {
		return vma.NewReader(in.stream, in.opt)
	}
	a, err := vma.OpenContext(c.ctx, in.file, in.opt)
	in.archive = a
	return a, err
}

// lzop decodes lzo by the program lzop.
func lzop(r io.Reader) (io.Reader, error) {
	cmd := exec.Command("lzop", "-dc")
	cmd.Stdin = r
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &process{out: out, cmd: cmd}, cmd.Start()
}

// A process is the output of a program. At its end the program must have
// succeeded.
type process struct {
	out io.Reader
	cmd *exec.Cmd
	end error // once the program was waited for
}

func (p *process) Read(b []byte) (int, error) {
	if p.end != nil {
		return 0, p.end
	}
	n, err := p.out.Read(b)
	if err == io.EOF {
		if werr := p.cmd.Wait(); werr != nil {
			err = fmt.Errorf("%s: %w", filepath.Base(p.cmd.Path), werr)
		}
		p.end = err
	}
	return n, err
}

// Close ends a program that was not read to its end. What feeds it may wait
// for a pipe, and is not waited for.
func (p *process) Close() error {
	if p.end == nil {
		p.cmd.Process.Kill()
		p.cmd.Process.Wait()
	}
	return nil
}
