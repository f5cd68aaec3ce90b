package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"

	"github.com/virtfmt/virtfmt/libxlfmt"
)

func (p *program) convert(args []string) error {
	to := p.flags.String("to", "", "the container: libxl, libxc, xl, libvirt or xenopsd (default that of IN)")
	config := p.flags.String("config", "", "`file` with the configuration for xl, JSON or text, or the XML for libvirt")
	form := p.flags.String("xenstore", "", "the form of the xenstore record: `final` or draft-b (default that of IN)")
	args, err := p.parse(args, 2, 2)
	if err != nil {
		return err
	}
	src, done, err := p.open(args[0])
	if err != nil {
		return err
	}
	defer done()
	r, err := libxlfmt.NewReader(src, &libxlfmt.Options{Profile: libxlfmt.Lenient})
	if err != nil {
		return err
	}
	h, _ := r.Header()
	o := &libxlfmt.WriterOptions{
		Container: r.Container(), BigEndian: h.BigEndian(), Legacy: h.Legacy(), Profile: libxlfmt.Lenient,
	}
	if o.Container, err = container(r.Container(), *to, *config); err != nil {
		return err
	}
	switch *form {
	case "":
	case "final":
		o.Xenstore = libxlfmt.XenstoreFinal
	case "draft-b":
		o.Xenstore = libxlfmt.XenstoreDraftB
	default:
		return errUsage
	}
	if args[1] == "-" {
		return p.write(p.out, r, o)
	}
	return p.writeFile(args[1], src, r, o)
}

// container returns the container to write.
func container(from libxlfmt.Container, to, config string) (libxlfmt.Container, error) {
	c := from
	if to != "" {
		kind, err := libxlfmt.ParseContainerKind(to)
		if err != nil {
			return c, err
		}
		if kind != from.Kind {
			c = libxlfmt.Container{Kind: kind}
		}
	}
	if config == "" {
		return c, nil
	}
	b, err := os.ReadFile(config)
	if err != nil {
		return c, err
	}
	switch c.Kind {
	case libxlfmt.ContainerXL:
		c.XL = libxlfmt.NewXLHeader(b, bytes.HasPrefix(bytes.TrimSpace(b), []byte("{")))
	case libxlfmt.ContainerLibvirt:
		c.Libvirt.XML = append(bytes.TrimRight(b, "\x00"), 0)
	default:
		return c, fmt.Errorf("%v has no place for a configuration", c.Kind)
	}
	return c, nil
}

// writeFile writes to a file, which keeps what it held if that fails.
func (p *program) writeFile(name string, src io.Reader, r *libxlfmt.Reader, o *libxlfmt.WriterOptions) error {
	if f, ok := src.(*os.File); ok {
		if err := distinct(f, name); err != nil {
			return err
		}
	}
	return replaceFile(name, func(f io.Writer) error { return p.write(f, r, o) })
}

func (p *program) write(out io.Writer, r *libxlfmt.Reader, o *libxlfmt.WriterOptions) error {
	b := bufio.NewWriterSize(out, 256<<10)
	w, err := libxlfmt.NewWriter(b, o)
	if err != nil {
		return err
	}
	dropped, err := libxlfmt.Copy(w, r)
	for _, rec := range dropped {
		fmt.Fprintf(p.err, "left out: %v %v at %#x, %d bytes\n", rec.Type.Layer(), rec.Type, rec.Offset, rec.Length)
	}
	if err != nil {
		return err
	}
	return b.Flush()
}
