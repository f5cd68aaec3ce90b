package imginfo

import "github.com/virtfmt/virtfmt/qcow2"

// Qcow2 returns what only images of the format qcow2 have. All bitmaps of one that is
// in use are called in-use.
func Qcow2(im *qcow2.Image, inUse bool) (Object, error) {
	h := im.Header()
	compat, compression := "1.1", "zlib"
	if h.Version < 3 {
		compat = "0.10"
	}
	if h.CompressionType == qcow2.CompressionZstd {
		compression = "zstd"
	}
	o := Object{{"compat", compat}, {"compression-type", compression}}
	if h.Version >= 3 {
		o.Add("lazy-refcounts", h.CompatibleFeatures&qcow2.CompatLazyRefcounts != 0)
		all, err := im.Bitmaps()
		if err != nil {
			return nil, err
		}
		if len(all) > 0 {
			o.Add("bitmaps", bitmaps(all, inUse))
		}
	}
	o.Add("refcount-bits", h.RefcountBits())
	if h.CryptMethod != qcow2.CryptNone {
		e, err := im.Encryption()
		if err != nil {
			return nil, err
		}
		o.Add("encrypt", encryption(e))
	}
	if h.IncompatibleFeatures&qcow2.IncompatExternalData != 0 {
		if name := h.DataFile(); name != "" {
			o.Add("data-file", name)
		}
		o.Add("data-file-raw", h.AutoclearFeatures&qcow2.AutoclearRawExternal != 0)
	}
	if h.Version >= 3 {
		o.Add("corrupt", h.IncompatibleFeatures&qcow2.IncompatCorrupt != 0)
		o.Add("extended-l2", h.IncompatibleFeatures&qcow2.IncompatExtendedL2 != 0)
	}
	return o, nil
}

// encryption describes how an image is encrypted.
func encryption(e *qcow2.Encryption) Object {
	if e.Method == qcow2.CryptAES {
		return Object{{"format", "aes"}}
	}
	slots := List{}
	for _, k := range e.Slots {
		if k.Active {
			slots = append(slots, Object{{"active", true}, {"iters", k.Iterations}, {"key-offset", k.Offset}, {"stripes", k.Stripes}})
		} else {
			slots = append(slots, Object{{"active", false}, {"key-offset", k.Offset}})
		}
	}
	o := Object{{"ivgen-alg", e.IVGen}, {"hash-alg", e.Hash}, {"cipher-alg", e.Cipher}, {"uuid", e.UUID}}
	if e.IVGenHash != "" {
		o.Add("ivgen-hash-alg", e.IVGenHash)
	}
	return append(o, Object{
		{"format", "luks"}, {"cipher-mode", e.CipherMode}, {"slots", slots}, {"payload-offset", e.PayloadOffset},
		{"master-key-iters", e.MasterKeyIterations},
	}...)
}

// bitmaps describes the bitmaps of an image.
func bitmaps(all []qcow2.Bitmap, inUse bool) List {
	l := List{}
	for _, b := range all {
		flags := List{}
		if b.InUse || inUse {
			flags = append(flags, "in-use")
		}
		if b.Enabled {
			flags = append(flags, "auto")
		}
		l = append(l, Object{{"flags", flags}, {"name", b.Name}, {"granularity", b.Granularity}})
	}
	return l
}
