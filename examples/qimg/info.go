package main

import (
	"fmt"
	"os"

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
		all := list{}
		for _, i := range infos {
			all = append(all, i.object())
		}
		return writeJSON(c.stdout, all)
	}
	for n, i := range infos {
		if s.json {
			return writeJSON(c.stdout, i.object())
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
	formatType           string // of specific
	specific             object // nil for none
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
	compression := "zlib"
	if h.CompressionType == qcow2.CompressionZstd {
		compression = "zstd"
	}
	if h.Version < 3 {
		i.specific = object{{"compat", "0.10"}, {"compression-type", compression}, {"refcount-bits", h.RefcountBits()}}
	} else {
		i.specific = object{
			{"compat", "1.1"}, {"compression-type", compression},
			{"lazy-refcounts", h.CompatibleFeatures&qcow2.CompatLazyRefcounts != 0},
		}
		all, err := im.Bitmaps()
		if err != nil {
			return err
		}
		if len(all) > 0 {
			i.specific.add("bitmaps", bitmapObjects(all))
		}
		i.specific.add("refcount-bits", h.RefcountBits())
	}
	if i.encrypted {
		e, err := im.Encryption()
		if err != nil {
			return err
		}
		i.specific.add("encrypt", encryption(e))
	}
	if h.IncompatibleFeatures&qcow2.IncompatExternalData != 0 {
		if name := h.DataFile(); name != "" {
			i.specific.add("data-file", name)
		}
		i.specific.add("data-file-raw", h.AutoclearFeatures&qcow2.AutoclearRawExternal != 0)
	}
	if h.Version >= 3 {
		i.specific.add("corrupt", h.IncompatibleFeatures&qcow2.IncompatCorrupt != 0)
		i.specific.add("extended-l2", h.IncompatibleFeatures&qcow2.IncompatExtendedL2 != 0)
	}
	return nil
}

// encryption describes how an image is encrypted.
func encryption(e *qcow2.Encryption) object {
	if e.Method == qcow2.CryptAES {
		return object{{"format", "aes"}}
	}
	slots := list{}
	for _, k := range e.Slots {
		if k.Active {
			slots = append(slots, object{{"active", true}, {"iters", k.Iterations}, {"key-offset", k.Offset}, {"stripes", k.Stripes}})
		} else {
			slots = append(slots, object{{"active", false}, {"key-offset", k.Offset}})
		}
	}
	o := object{{"ivgen-alg", e.IVGen}, {"hash-alg", e.Hash}, {"cipher-alg", e.Cipher}, {"uuid", e.UUID}}
	if e.IVGenHash != "" {
		o.add("ivgen-hash-alg", e.IVGenHash)
	}
	return append(o, object{
		{"format", "luks"}, {"cipher-mode", e.CipherMode}, {"slots", slots}, {"payload-offset", e.PayloadOffset},
		{"master-key-iters", e.MasterKeyIterations},
	}...)
}

// object returns i for JSON.
func (i *imageInfo) object() object {
	var o object
	if len(i.snapshots) > 0 {
		all := list{}
		for _, s := range i.snapshots {
			all = append(all, snapshotObject(s))
		}
		o.add("snapshots", all)
	}
	if i.backingFormat != "" {
		o.add("backing-filename-format", i.backingFormat)
	}
	o.add("virtual-size", i.size)
	o.add("filename", i.name)
	if i.cluster > 0 {
		o.add("cluster-size", i.cluster)
	}
	o.add("format", i.format)
	o.add("actual-size", i.actual)
	if i.specific != nil {
		o.add("format-specific", object{{"type", i.formatType}, {"data", i.specific}})
	}
	if i.encrypted {
		o.add("encrypted", true)
	}
	if i.backing != "" {
		o.add("full-backing-filename", i.fullBacking)
		o.add("backing-filename", i.backing)
	}
	o.add("dirty-flag", i.dirty)
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
		writeText(w, i.specific, "    ")
	}
}
