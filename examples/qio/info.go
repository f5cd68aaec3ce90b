package main

import (
	"fmt"
	"io"

	"github.com/virtfmt/virtfmt/qcow2"
)

func (s *session) info(*verb, []string) {
	cluster := s.img.ClusterSize()
	if s.img.Raw != nil {
		cluster = 0
	}
	var stateOffset float64
	q := s.img.Qcow2
	if q != nil {
		stateOffset = vmStateOffset(q)
	}
	fmt.Fprintf(s.out, "format name: %s\ncluster size: %s\nvm state offset: %s\n", s.img.Format, human(float64(cluster)), human(stateOffset))
	if q == nil {
		return
	}
	if err := specific(s.out, q, s.img.Writer() != nil); err != nil {
		s.fail("qio: %v\n", err)
	}
}

// vmStateOffset returns where the VM state of an image begins, as counted by
// qemu-io: after all that the L1 table describes of the disk.
func vmStateOffset(q *qcow2.Image) float64 {
	h := q.Header()
	entry := int64(8)
	if h.IncompatibleFeatures&qcow2.IncompatExtendedL2 != 0 {
		entry = 16
	}
	covers := float64(h.ClusterSize()) * float64(h.ClusterSize()/entry)
	return float64(int64((float64(q.Size())+covers-1)/covers)) * covers
}

// specific prints what only images of the format qcow2 have.
func specific(w io.Writer, q *qcow2.Image, writable bool) error {
	h := q.Header()
	compat, compression := "1.1", "zlib"
	if h.Version < 3 {
		compat = "0.10"
	}
	if h.CompressionType == qcow2.CompressionZstd {
		compression = "zstd"
	}
	fmt.Fprintf(w, "Format specific information:\n    compat: %s\n    compression type: %s\n", compat, compression)
	if h.Version >= 3 {
		fmt.Fprintf(w, "    lazy refcounts: %t\n", h.CompatibleFeatures&qcow2.CompatLazyRefcounts != 0)
		all, err := q.Bitmaps()
		if err != nil {
			return err
		}
		printBitmaps(w, all, writable)
	}
	fmt.Fprintf(w, "    refcount bits: %d\n", h.RefcountBits())
	if h.CryptMethod != qcow2.CryptNone {
		e, err := q.Encryption()
		if err != nil {
			return err
		}
		printEncryption(w, e)
	}
	if h.IncompatibleFeatures&qcow2.IncompatExternalData != 0 {
		if name := h.DataFile(); name != "" {
			fmt.Fprintf(w, "    data file: %s\n", name)
		}
		fmt.Fprintf(w, "    data file raw: %t\n", h.AutoclearFeatures&qcow2.AutoclearRawExternal != 0)
	}
	if h.Version >= 3 {
		fmt.Fprintf(w, "    corrupt: %t\n    extended l2: %t\n", h.IncompatibleFeatures&qcow2.IncompatCorrupt != 0,
			h.IncompatibleFeatures&qcow2.IncompatExtendedL2 != 0)
	}
	return nil
}

// printBitmaps prints the bitmaps of an image. Those of one that is open for
// writing are in use, by this program.
func printBitmaps(w io.Writer, all []qcow2.Bitmap, writable bool) {
	for i, b := range all {
		if i == 0 {
			fmt.Fprintln(w, "    bitmaps:")
		}
		fmt.Fprintf(w, "        [%d]:\n            flags:%s\n", i, map[bool]string{true: " "}[!writable && !b.InUse && !b.Enabled])
		n := 0
		for _, flag := range []struct {
			name string
			set  bool
		}{{"in-use", b.InUse || writable}, {"auto", b.Enabled}} {
			if flag.set {
				fmt.Fprintf(w, "                [%d]: %s\n", n, flag.name)
				n++
			}
		}
		fmt.Fprintf(w, "            name: %s\n            granularity: %d\n", b.Name, b.Granularity)
	}
}

func printEncryption(w io.Writer, e *qcow2.Encryption) {
	fmt.Fprintln(w, "    encrypt:")
	if e.Method == qcow2.CryptAES {
		fmt.Fprintln(w, "        format: aes")
		return
	}
	fmt.Fprintf(w, "        ivgen alg: %s\n        hash alg: %s\n        cipher alg: %s\n        uuid: %s\n", e.IVGen, e.Hash, e.Cipher, e.UUID)
	if e.IVGenHash != "" {
		fmt.Fprintf(w, "        ivgen hash alg: %s\n", e.IVGenHash)
	}
	fmt.Fprintf(w, "        format: luks\n        cipher mode: %s\n        slots:\n", e.CipherMode)
	for i, k := range e.Slots {
		fmt.Fprintf(w, "            [%d]:\n                active: %t\n", i, k.Active)
		if k.Active {
			fmt.Fprintf(w, "                iters: %d\n", k.Iterations)
		}
		fmt.Fprintf(w, "                key offset: %d\n", k.Offset)
		if k.Active {
			fmt.Fprintf(w, "                stripes: %d\n", k.Stripes)
		}
	}
	fmt.Fprintf(w, "        payload offset: %d\n        master key iters: %d\n", e.PayloadOffset, e.MasterKeyIterations)
}
