package main

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"

	"github.com/virtfmt/virtfmt/examples/internal/imgopen"
	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/internal/safeio"
	"github.com/virtfmt/virtfmt/qcow2"
)

// write writes a disk to the target.
func (c *command) write(v *conversion, src block.Disk) error {
	if v.compress && v.outFormat != "qcow2" && !v.targetOpts {
		if createOptions(v.outFormat) == nil {
			return unknownFormat(v.outFormat)
		}
		return errCompression
	}
	if v.hasBacking && len(v.sources) > 1 {
		return message("Having a backing file for the target makes no sense when concatenating multiple input images")
	}
	if v.exists {
		return c.writeExisting(v, src)
	}
	create, err := c.targetOptions(v, src.Size())
	if err != nil {
		return err
	}
	p := c.newProgress(&v.settings)
	if v.streams(create) {
		err = c.encode(v, create, src, p)
	} else {
		err = c.writeNew(v, create, src, p)
	}
	if err != nil {
		p.end()
		return err
	}
	p.finish()
	return nil
}

// targetOptions returns how the target is to be made.
func (c *command) targetOptions(v *conversion, size int64) (*createValues, error) {
	create, err := newValues(v.outFormat, v.options)
	if err != nil {
		return nil, err
	}
	if v.hasBacking {
		create.value["backing_file"] = v.backing
	}
	if v.backingFormat != "" {
		create.value["backing_fmt"] = v.backingFormat
	}
	backing, has := create.value["backing_file"]
	switch {
	case has && v.outFormat != "qcow2" && v.outFormat != "qed":
		return nil, messagef("Backing file not supported for file format '%s'", v.outFormat)
	case has && len(v.sources) > 1:
		return nil, message("Having a backing file for the target makes no sense when concatenating multiple input images")
	case has && create.get("backing_fmt") == "":
		return nil, message("Use of backing file requires explicit backing format")
	case has:
		o := c.options(&settings{secrets: v.secrets, noLock: v.noLock, format: create.get("backing_fmt")})
		b, err := imgopen.Open(imgopen.Resolve(v.target, backing), o)
		if err != nil {
			return nil, messagef("Could not open '%s': Could not open backing file: %v", v.target, err)
		}
		if err := b.Close(); err != nil {
			return nil, err
		}
	}
	if v.compress && create.get("preallocation") != "" && create.get("preallocation") != "off" {
		return nil, message("Compression and preallocation not supported at the same time")
	}
	// The target has the size of the source, whatever the options say.
	create.value["size"] = fmt.Sprint(size)
	return create, nil
}

// streams reports whether the target is one that [qcow2.Encode] makes.
func (v *conversion) streams(create *createValues) bool {
	return v.outFormat == "qcow2" && !v.salvage && create.get("data_file") == "" && !create.on("data_file_raw") && !create.on("encryption") &&
		create.get("encrypt.format") == "" && (create.get("preallocation") == "" || create.get("preallocation") == "off")
}

// encode writes a new qcow2 image from its start to its end.
func (c *command) encode(v *conversion, create *createValues, src block.Disk, p *progress) (err error) {
	o, err := c.qcow2Options(create, v.secrets)
	if err != nil {
		return v.convertingError(err)
	}
	path, err := imgopen.Path(v.target)
	if err != nil {
		return v.convertingError(err)
	}
	if err := checkFile(create); err != nil {
		return v.convertingError(err)
	}
	f, err := c.makeFile(path, create)
	if err != nil {
		return v.convertingError(err)
	}
	defer closing(f, &err)
	e := &qcow2.EncodeOptions{Create: o, Compress: v.compress, KeepZeros: v.sparse == 0, Workers: v.workers, Progress: p.show}
	if o.BackingFile != "" {
		e.Layers = 1
		src = overBacking(src)
	}
	w := io.WriteSeeker(f)
	flush := func() error { return nil }
	if o := c.writing(&v.settings); o.Direct {
		d, err := newDirectStream(path, o)
		if err != nil {
			return err
		}
		defer closing(d.file, &err)
		w, flush = d, d.flush
	}
	if !isRegular(f.File) { // a device cannot be made to end with the image
		w = struct{ io.WriteSeeker }{w}
	}
	if err := qcow2.Encode(c.ctx, w, src, e); err != nil {
		return copyFailed(err)
	}
	if err := flush(); err != nil {
		return copyFailed(err)
	}
	return v.sync(f)
}

// sync makes the target durable, unless it is cached unsafely.
func (v *conversion) sync(s interface{ Sync() error }) error {
	if v.cache == "unsafe" {
		return nil
	}
	return s.Sync()
}

// writeNew makes an image and copies the disk to it.
func (c *command) writeNew(v *conversion, create *createValues, src block.Disk, p *progress) error {
	switch {
	case v.compress && (create.on("encryption") || create.get("encrypt.format") != ""):
		return message("Compression and encryption not supported at the same time")
	case v.compress:
		return message("error while writing at byte 0: Operation not supported")
	}
	path, err := imgopen.Path(v.target)
	if err == nil {
		err = c.makeImage(path, create, v.secrets)
	}
	if err != nil {
		return v.convertingError(err)
	}
	o := c.options(&settings{format: v.outFormat, secrets: v.secrets})
	name := v.target
	if id := create.get("encrypt.key-secret"); id != "" {
		o.Format, o.ImageOpts = "", true
		name = "driver=" + v.outFormat + ",encrypt.key-secret=" + escape(id) + ",file.filename=" + escape(path)
	}
	o.Write = true
	dst, err := c.openTarget(v, name, o)
	if err != nil {
		return err
	}
	fi, err := os.Stat(dst.Path)
	if err != nil {
		return errors.Join(err, dst.Close())
	}
	copied := c.copyOptions(v, p)
	copied.Zeroed = fi.Mode().IsRegular() && create.get("backing_file") == ""
	return c.copyTo(v, dst, src, copied)
}

// openTarget opens the target for writing.
func (c *command) openTarget(v *conversion, name string, o *imgopen.Options) (*imgopen.Image, error) {
	o.Write = true
	o.SetCache(v.cache)
	dst, err := imgopen.Open(name, o)
	if err != nil {
		return nil, err
	}
	if dst.Writer() == nil {
		return nil, errors.Join(messagef("Format '%s' cannot be written", dst.Format), dst.Close())
	}
	return dst, nil
}

// writeExisting copies the disk to an image that is there.
func (c *command) writeExisting(v *conversion, src block.Disk) error {
	o := c.options(&settings{format: v.outFormat, secrets: v.secrets, imageOpts: v.targetOpts})
	if v.targetOpts {
		o.Format = ""
	}
	dst, err := c.openTarget(v, v.target, o)
	if err != nil {
		return err
	}
	if dst.Size() < src.Size() {
		return errors.Join(message("output file is smaller than input file"), dst.Close())
	}
	p := c.newProgress(&v.settings)
	if v.compress {
		err = c.compressTo(v, dst, src, p)
	} else {
		copied := c.copyOptions(v, p)
		copied.Zeroed = v.targetZero
		err = c.copyTo(v, dst, src, copied)
	}
	if err != nil {
		p.end()
		return err
	}
	p.finish()
	return nil
}

// copyTo copies the disk to an image, which it closes.
func (c *command) copyTo(v *conversion, dst *imgopen.Image, src block.Disk, o *block.CopyOptions) (err error) {
	defer closing(dst, &err)
	if _, err := block.Copy(c.ctx, dst.Writer(), src, o); err != nil {
		return copyFailed(err)
	}
	return v.sync(dst.Writer())
}

// compressTo writes the disk compressed to an image that is there, which it
// closes.
func (c *command) compressTo(v *conversion, dst *imgopen.Image, src block.Disk, p *progress) (err error) {
	defer closing(dst, &err)
	if dst.Qcow2 == nil {
		return errCompression
	}
	cluster := dst.ClusterSize()
	buf := make([]byte, max(cluster, 4<<20))
	for x, err := range merged(src, cluster) {
		if err != nil {
			return err
		}
		for off := x.start; off < x.end(); off += int64(len(buf)) {
			part := buf[:min(int64(len(buf)), x.end()-off, dst.Size()-off)]
			if err := compressPart(dst.Qcow2, src, part, off, x.zero && !v.targetZero); err != nil {
				return err
			}
			p.show(off+int64(len(part)), src.Size())
		}
	}
	return v.sync(dst.Qcow2)
}

// compressPart writes whole clusters compressed, or makes them zeros.
func compressPart(dst *qcow2.Image, src block.Disk, part []byte, off int64, zero bool) error {
	if zero {
		return dst.WriteZeroesAt(off, int64(len(part)))
	}
	n := min(int64(len(part)), src.Size()-off)
	if err := safeio.ReadFull(src, part[:n], off); err != nil {
		return messagef("error while reading at byte %d: %v", off, imgopen.Reason(err))
	}
	clear(part[n:])
	if _, err := dst.WriteCompressedAt(part, off); err != nil {
		return messagef("error while writing at byte %d: %v", off, imgopen.Reason(err))
	}
	return nil
}

// merged yields ranges of whole clusters of a disk, by whether they are known to
// be zeros. The last may end after the disk.
func merged(src block.Disk, cluster int64) iter.Seq2[status, error] {
	return func(yield func(status, error) bool) {
		var run status // of bytes
		done := int64(0)
		send := func() bool {
			from, to := align.Down(run.start, cluster), align.Up(run.end(), cluster)
			if run.zero { // a cluster counts as zeros as a whole only
				from = align.Up(run.start, cluster)
				if run.end() < src.Size() {
					to = align.Down(run.end(), cluster)
				}
			}
			from = max(from, done)
			if from >= to {
				return true
			}
			done = to
			return yield(status{start: from, length: to - from, zero: run.zero}, nil)
		}
		for x, err := range block.WholeDisk(src) {
			if err != nil {
				yield(status{}, err)
				return
			}
			if run.length > 0 && run.zero == x.IsZero() {
				run.length += x.Length
				continue
			}
			if run.length > 0 && !send() {
				return
			}
			run = status{start: x.Start, length: x.Length, zero: x.IsZero()}
		}
		if run.length > 0 {
			send()
		}
	}
}

// copyFailed returns an error of a copy in the words of qemu-img.
func copyFailed(err error) error {
	var ce *block.CopyError
	if !errors.As(err, &ce) {
		return err
	}
	verb := "reading"
	if ce.Op == "write" || ce.Op == "truncate" {
		verb = "writing"
	}
	return fmt.Errorf("error while %s at byte %d: %w", verb, ce.Offset, ce.Err)
}

// escape returns a value for a list of options.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }
