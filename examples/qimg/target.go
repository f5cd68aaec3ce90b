package main

import (
	"io"
	"math"
	"os"
	"time"

	"github.com/virtfmt/virtfmt/examples/internal/imgopen"
	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/internal/imagelock"
	"github.com/virtfmt/virtfmt/internal/sparse"
	"github.com/virtfmt/virtfmt/qcow2"
	"github.com/virtfmt/virtfmt/qed"
)

// makeFile makes a file empty that is there, unless somebody uses it, or makes
// a new one.
func makeFile(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, messagef("Could not create '%s': %v", name, imgopen.Reason(err))
	}
	if err := imagelock.Lock(f, true); err != nil {
		f.Close()
		return nil, messagef("Failed to get \"write\" lock: %v\nIs another process using the image [%s]?", err, name)
	}
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return f, err // a device keeps its size
	}
	return f, f.Truncate(0)
}

// storage returns the file that an image is made in.
func storage(f *os.File) block.File {
	if isRegular(f) {
		return f
	}
	return &device{File: f}
}

func isRegular(f *os.File) bool {
	fi, err := f.Stat()
	return err == nil && fi.Mode().IsRegular()
}

// makeImage makes an image in the file of that path, as v says.
func (c *command) makeImage(path string, v *createValues, secrets imgopen.Secrets) (err error) {
	// What cannot be is found before a file is touched.
	var q *qcow2.CreateOptions
	if v.format == "qcow2" {
		if q, err = c.qcow2Options(v, secrets); err != nil {
			return err
		}
	}
	f, err := makeFile(path)
	if err != nil {
		return err
	}
	defer closing(f, &err)
	switch v.format {
	case "qcow2":
		err = makeQcow2(f, v, q)
	case "qed":
		var img *qed.Image
		img, err = qed.Create(storage(f), v.number("size"), &qed.CreateOptions{
			ClusterSize: uint32(min(v.number("cluster_size"), math.MaxUint32)), TableSize: uint32(min(v.number("table_size"), math.MaxUint32)),
			BackingFile: v.get("backing_file"), BackingFormat: v.get("backing_fmt"), AnyGeometry: true,
		})
		if err == nil {
			err = img.Close()
		}
	default:
		err = makeRaw(f, align.Up(v.number("size"), 512), v.get("preallocation"))
	}
	return err
}

// makeRaw gives a file its size, and its space as the mode says.
func makeRaw(f *os.File, size int64, mode string) error {
	switch mode {
	case "", "off", "falloc", "full":
	case "metadata":
		return messagef("Unsupported preallocation mode: %s", mode)
	default:
		return messagef("Parameter 'preallocation' does not accept value '%s'", mode)
	}
	if err := f.Truncate(size); err != nil && size > 0 {
		if fi, serr := f.Stat(); serr != nil || fi.Mode().IsRegular() {
			return err
		}
	}
	// qemu-img writes the first block, as it shows in how much space is taken.
	if _, err := f.WriteAt(make([]byte, min(size, 4096)), 0); err != nil {
		return err
	}
	if mode == "falloc" && size > 0 {
		if err := sparse.Reserve(f, 0, size); err != nil {
			return messagef("Could not preallocate data for the new file: %v", imgopen.Reason(err))
		}
	}
	if mode == "full" {
		return writeZeros(f, 0, size)
	}
	return nil
}

// writeZeros writes n zeros at off.
func writeZeros(f io.WriterAt, off, n int64) error {
	_, err := io.CopyN(io.NewOffsetWriter(f, off), zeros{}, n)
	return err
}

// zeros reads as zeros without an end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func makeQcow2(f *os.File, v *createValues, o *qcow2.CreateOptions) (err error) {
	if o.DataFile != "" {
		data, err := makeFile(o.DataFile)
		if err != nil {
			return err
		}
		defer closing(data, &err)
		if err := data.Truncate(align.Up(v.number("size"), 512)); err != nil {
			return err
		}
		o.Data = data
	}
	im, err := qcow2.Create(storage(f), v.number("size"), o)
	if err != nil {
		return err
	}
	return im.Close()
}

// qcow2Options returns the options of a new image, but for the data file.
func (c *command) qcow2Options(v *createValues, secrets imgopen.Secrets) (*qcow2.CreateOptions, error) {
	o := &qcow2.CreateOptions{
		ClusterSize: v.number("cluster_size"), ExtendedL2: v.on("extended_l2"),
		RefcountBits: int(min(v.number("refcount_bits"), math.MaxInt32)), LazyRefcounts: v.on("lazy_refcounts"),
		BackingFile: v.get("backing_file"), BackingFormat: v.get("backing_fmt"),
		DataFile: v.get("data_file"), DataFileRaw: v.on("data_file_raw"),
	}
	var ok bool
	if o.Version, ok = map[string]int{"": 3, "0.10": 2, "v2": 2, "1.1": 3, "v3": 3}[v.get("compat")]; !ok {
		return nil, messagef("Parameter 'version' does not accept value '%s'", v.get("compat"))
	}
	if o.CompressionType, ok = map[string]qcow2.CompressionType{"zlib": qcow2.CompressionDeflate, "zstd": qcow2.CompressionZstd}[v.get("compression_type")]; !ok {
		return nil, messagef("Parameter 'compression-type' does not accept value '%s'", v.get("compression_type"))
	}
	o.Preallocation, ok = map[string]qcow2.Preallocation{
		"": qcow2.PreallocateOff, "off": qcow2.PreallocateOff, "metadata": qcow2.PreallocateMetadata,
		"falloc": qcow2.PreallocateFalloc, "full": qcow2.PreallocateFull,
	}[v.get("preallocation")]
	if !ok {
		return nil, messagef("Parameter 'preallocation' does not accept value '%s'", v.get("preallocation"))
	}
	switch {
	case o.BackingFormat != "" && o.BackingFile == "":
		return nil, message("Backing format cannot be used without backing file")
	case o.ClusterSize == 0 || o.ClusterSize&(o.ClusterSize-1) != 0:
		return nil, message("Cluster size must be a power of two between 512 and 2048k")
	case o.RefcountBits == 0:
		return nil, message("Refcount width must be a power of two and may not exceed 64 bits")
	case o.DataFileRaw && o.DataFile == "":
		return nil, message("data-file-raw requires data-file")
	}
	var err error
	o.Encrypt, err = c.encryptOptions(v, secrets)
	return o, err
}

// encryptOptions returns how a new image is to be encrypted, or nil.
func (c *command) encryptOptions(v *createValues, secrets imgopen.Secrets) (*qcow2.EncryptOptions, error) {
	format := v.get("encrypt.format")
	if v.on("encryption") && format == "" {
		format = "aes"
	}
	if format == "" {
		return nil, nil
	}
	o := &qcow2.EncryptOptions{
		Cipher: v.get("encrypt.cipher-alg"), CipherMode: v.get("encrypt.cipher-mode"), IVGen: v.get("encrypt.ivgen-alg"),
		IVGenHash: v.get("encrypt.ivgen-hash-alg"), Hash: v.get("encrypt.hash-alg"), Context: c.ctx,
		Key: qcow2.KeyOptions{IterTime: time.Duration(v.number("encrypt.iter-time")) * time.Millisecond},
	}
	switch format {
	case "aes":
		o.Method = qcow2.CryptAES
	case "luks":
		o.Method = qcow2.CryptLUKS
	default:
		return nil, messagef("Parameter 'format' does not accept value '%s'", format)
	}
	id := v.get("encrypt.key-secret")
	if id == "" {
		return nil, message("Parameter 'encrypt.key-secret' is required for cipher")
	}
	var err error
	o.Passphrase, err = secrets.Get(id)
	return o, err
}
