package main

import (
	"fmt"
	"os"

	"github.com/virtfmt/virtfmt/examples/internal/imginfo"
	"github.com/virtfmt/virtfmt/examples/internal/imgopen"
	"github.com/virtfmt/virtfmt/qcow2"
)

// info runs "qimg info".
func (c *command) info(args []string) error {
	var s settings
	var chain bool
	opts, operands, err := parse(args, "f:U", "object: image-opts format:=f output: force-share=U backing-chain")
	if err != nil {
		return err
	}
	for _, o := range opts {
		if ok, err := s.set(o); err != nil {
			return err
		} else if !ok {
			chain = true
		}
	}
	name, err := oneFile(operands)
	if err != nil {
		return err
	}
	o := c.options(&s)
	o.MetadataOnly = true
	infos, err := c.collect(name, o, chain)
	if err != nil {
		return err
	}
	if s.json && chain {
		all := imginfo.List{}
		for _, i := range infos {
			all = append(all, i.object())
		}
		return imginfo.WriteJSON(c.stdout, all)
	}
	for n, i := range infos {
		if s.json {
			return imginfo.WriteJSON(c.stdout, i.object())
		}
		if n > 0 {
			fmt.Fprintln(c.stdout)
		}
		i.print(c)
	}
	return nil
}

// collect looks at an image, and if chain is set at those below it.
func (c *command) collect(name string, o *imgopen.Options, chain bool) ([]*imageInfo, error) {
	var infos []*imageInfo
	var seen []os.FileInfo
	for {
		img, err := c.open(name, o)
		if err != nil {
			return nil, err
		}
		i, err := inspect(img)
		fi, serr := os.Stat(img.Path)
		if cerr := img.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return nil, err
		}
		infos = append(infos, i)
		if !chain || i.backing == "" {
			return infos, nil
		}
		for _, above := range seen {
			if serr == nil && os.SameFile(above, fi) {
				return nil, messagef("Backing file '%s' creates an infinite loop.", name)
			}
		}
		seen = append(seen, fi)
		next := *o
		next.ImageOpts, next.Format = false, i.backingFormat
		name, o = i.fullBacking, &next
	}
}

// An imageInfo is what info tells of an image.
type imageInfo struct {
	name, format         string
	size, actual         int64
	cluster              int64
	encrypted, dirty     bool
	backing, fullBacking string
	backingFormat        string
	snapshots            []qcow2.Snapshot
	formatType           string         // of specific
	specific             imginfo.Object // nil for none
}

// inspect looks at an image that is open for its metadata.
func inspect(img *imgopen.Image) (*imageInfo, error) {
	i := &imageInfo{name: img.Name, format: img.Format, size: img.Size()}
	fi, err := os.Stat(img.Path)
	if err != nil {
		return nil, err
	}
	i.actual = allocated(fi)
	switch {
	case img.Qcow2 != nil:
		if err := i.fromQcow2(img.Qcow2); err != nil {
			return nil, err
		}
	case img.Qed != nil:
		h := img.Qed.Header() // qemu-img does not tell of its need-check bit
		i.cluster = int64(h.ClusterSize)
		i.backing, i.backingFormat = h.BackingFile, h.BackingFormat()
	case img.Device != nil:
		i.cluster = img.ClusterSize()
	}
	if i.backing != "" {
		i.fullBacking = imgopen.Resolve(img.Path, i.backing)
	}
	return i, nil
}

func (i *imageInfo) fromQcow2(im *qcow2.Image) error {
	h := im.Header()
	var err error
	if i.snapshots, err = im.Snapshots(); err != nil {
		return err
	}
	i.cluster, i.dirty = im.ClusterSize(), h.IncompatibleFeatures&qcow2.IncompatDirty != 0
	i.encrypted = h.CryptMethod != qcow2.CryptNone
	i.backing, i.backingFormat = h.BackingFile, h.BackingFormat()
	i.formatType = "qcow2"
	i.specific, err = imginfo.Qcow2(im, false)
	return err
}

// object returns i for JSON.
func (i *imageInfo) object() imginfo.Object {
	var o imginfo.Object
	if len(i.snapshots) > 0 {
		all := imginfo.List{}
		for _, s := range i.snapshots {
			all = append(all, snapshotObject(s))
		}
		o.Add("snapshots", all)
	}
	if i.backingFormat != "" {
		o.Add("backing-filename-format", i.backingFormat)
	}
	o.Add("virtual-size", i.size)
	o.Add("filename", i.name)
	if i.cluster > 0 {
		o.Add("cluster-size", i.cluster)
	}
	o.Add("format", i.format)
	o.Add("actual-size", i.actual)
	if i.specific != nil {
		o.Add("format-specific", imginfo.Object{{"type", i.formatType}, {"data", i.specific}})
	}
	if i.encrypted {
		o.Add("encrypted", true)
	}
	if i.backing != "" {
		o.Add("full-backing-filename", i.fullBacking)
		o.Add("backing-filename", i.backing)
	}
	o.Add("dirty-flag", i.dirty)
	return o
}

// print prints i for people.
func (i *imageInfo) print(c *command) {
	w := c.stdout
	fmt.Fprintf(w, "image: %s\nfile format: %s\nvirtual size: %s (%d bytes)\ndisk size: %s\n", i.name, i.format, human(i.size), i.size, human(i.actual))
	if i.encrypted {
		fmt.Fprintln(w, "encrypted: yes")
	}
	if i.cluster > 0 {
		fmt.Fprintf(w, "cluster_size: %d\n", i.cluster)
	}
	if i.dirty {
		fmt.Fprintln(w, "cleanly shut down: no")
	}
	if i.backing != "" {
		fmt.Fprintf(w, "backing file: %s", i.backing)
		if i.fullBacking != i.backing {
			fmt.Fprintf(w, " (actual path: %s)", i.fullBacking)
		}
		fmt.Fprintln(w)
		if i.backingFormat != "" {
			fmt.Fprintf(w, "backing file format: %s\n", i.backingFormat)
		}
	}
	if len(i.snapshots) > 0 {
		printSnapshots(w, i.snapshots)
	}
	if i.specific != nil {
		fmt.Fprintln(w, "Format specific information:")
		imginfo.WriteText(w, i.specific, "    ")
	}
}
