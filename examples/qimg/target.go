package main

import (
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/virtfmt/virtfmt/examples/internal/imgopen"
	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/internal/imagelock"
	"github.com/virtfmt/virtfmt/internal/sparse"
	"github.com/virtfmt/virtfmt/qcow2"
	"github.com/virtfmt/virtfmt/qed"
)

// A newFile is one that an image is made in.
type newFile struct {
	*os.File
	created bool // it was not there
}

// makeFile makes a file empty that is there, unless somebody uses it, or makes
// a new one.
func (c *command) makeFile(name string, v *createValues) (_ *newFile, err error) {
	f, err := openNew(name)
	if err != nil {
		return nil, messagef("Could not create '%s': %v", name, imgopen.Reason(err))
	}
	defer func() {
		if err != nil {
			f.abandon()
		}
	}()
	if err := imagelock.Lock(f.File, true); err != nil {
		return nil, messagef("Failed to get \"write\" lock: %v\nIs another process using the image [%s]?", err, name)
	}
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		if err == nil && v.format != "raw" {
			err = hasRoom(f.File)
		}
		return f, err // a device keeps its size
	}
	if err := f.Truncate(0); err != nil {
		return nil, err
	}
	c.hint(f.File, v)
	return f, nil
}

// hasRoom refuses a device that holds nothing, such as /dev/null.
func hasRoom(f *os.File) error {
	n, err := block.Length(f)
	if err != nil || n == 0 {
		return messagef("'%s' is a device that holds nothing: an image needs a file or a disk", f.Name())
	}
	return nil
}

// openNew opens a file for writing, which it makes if need be.
func openNew(name string) (*newFile, error) {
	// A FIFO or a socket holds no image, and might block.
	if fi, err := os.Stat(name); err == nil && fi.Mode()&(fs.ModeNamedPipe|fs.ModeSocket) != 0 {
		return nil, message("not a regular file")
	}
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) { // or a link to nowhere
		f, err = os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
		return &newFile{File: f}, err
	}
	return &newFile{f, true}, err
}

// abandon closes a file that could not be made, and removes it if it was not
// there before.
func (f *newFile) abandon() {
	f.Close()
	if f.created {
		os.Remove(f.Name())
	}
}

// standardHint is how space is given to a new file where nothing else is said.
const standardHint = 1 << 20

// hint tells the file system how a new file is used. It need not listen.
func (c *command) hint(f *os.File, v *createValues) {
	if v.on("nocow") {
		sparse.NoCopyOnWrite(f)
	}
	n, given := int64(standardHint), false
	if _, given = v.value["extent_size_hint"]; given {
		n = v.number("extent_size_hint")
	}
	if err := sparse.ExtentSizeHint(f, uint32(min(n, math.MaxUint32))); err != nil && given {
		c.warn("qimg: warning: Failed to set extent size hint: Operation not supported")
	}
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
		if _, err := qcow2.Measure(v.number("size"), q); errors.Is(err, qcow2.ErrLimit) {
			return message("The image size is too large for file format 'qcow2' (try using a larger cluster size)")
		}
	}
	if err := checkFile(v); err != nil {
		return err
	}
	f, err := c.makeFile(path, v)
	if err != nil {
		return err
	}
	if err := c.fill(f.File, v, q); err != nil {
		f.abandon()
		return err
	}
	return f.Close()
}

// checkFile holds that the options of the file that an image lies in can be.
func checkFile(v *createValues) error {
	if v.number("extent_size_hint") > math.MaxUint32 {
		return message("Extent size hint is too large")
	}
	if v.format == "qcow2" {
		return nil
	}
	switch mode := v.get("preallocation"); mode {
	case "", "off", "falloc", "full":
	case "metadata":
		return messagef("Unsupported preallocation mode: %s", mode)
	default:
		return messagef("invalid parameter value: %s", mode)
	}
	return nil
}

// fill makes an image in a file that is empty.
func (c *command) fill(f *os.File, v *createValues, q *qcow2.CreateOptions) (err error) {
	switch v.format {
	case "qcow2":
		err = c.makeQcow2(f, v, q)
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

func (c *command) makeQcow2(f *os.File, v *createValues, o *qcow2.CreateOptions) (err error) {
	if o.DataFile != "" {
		data, err := c.makeFile(o.DataFile, v)
		if err != nil {
			return err
		}
		defer func() {
			if err != nil {
				data.abandon()
			} else {
				err = data.Close()
			}
		}()
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
	compat, givenCompat := v.value["compat"]
	mode, givenMode := v.value["preallocation"]
	var ok bool
	if o.Version, ok = map[string]int{"": 3, "0.10": 2, "v2": 2, "1.1": 3, "v3": 3}[compat]; !ok || givenCompat && compat == "" {
		return nil, messagef("Parameter 'version' does not accept value '%s'", compat)
	}
	if o.CompressionType, ok = map[string]qcow2.CompressionType{"zlib": qcow2.CompressionDeflate, "zstd": qcow2.CompressionZstd}[v.get("compression_type")]; !ok {
		return nil, messagef("Parameter 'compression-type' does not accept value '%s'", v.get("compression_type"))
	}
	o.Preallocation, ok = map[string]qcow2.Preallocation{
		"": qcow2.PreallocateOff, "off": qcow2.PreallocateOff, "metadata": qcow2.PreallocateMetadata,
		"falloc": qcow2.PreallocateFalloc, "full": qcow2.PreallocateFull,
	}[mode]
	if !ok || givenMode && mode == "" {
		return nil, messagef("Parameter 'preallocation' does not accept value '%s'", mode)
	}
	if err := checkQcow2(v, o); err != nil {
		return nil, err
	}
	var err error
	o.Encrypt, err = c.encryptOptions(v, secrets)
	return o, err
}

// checkQcow2 refuses what cannot be together, in the words of qemu-img.
func checkQcow2(v *createValues, o *qcow2.CreateOptions) error {
	const only = "only supported with compatibility level 1.1 and above (use version=v3 or greater)"
	_, hasData := v.value["data_file"]
	switch {
	case o.BackingFormat != "" && o.BackingFile == "":
		return message("Backing format cannot be used without backing file")
	case o.ClusterSize < 512 || o.ClusterSize > 2<<20 || o.ClusterSize&(o.ClusterSize-1) != 0:
		return message("Cluster size must be a power of two between 512 and 2048k")
	case o.Version < 3 && o.ExtendedL2:
		return message("Extended L2 entries are " + only)
	case o.ExtendedL2 && o.ClusterSize < 16<<10:
		return message("Extended L2 entries are only supported with cluster sizes of at least 16384 bytes")
	case o.Version < 3 && o.LazyRefcounts:
		return message("Lazy refcounts " + only)
	case o.RefcountBits <= 0 || o.RefcountBits > 64 || o.RefcountBits&(o.RefcountBits-1) != 0:
		return message("Refcount width must be a power of two and may not exceed 64 bits")
	case o.Version < 3 && o.RefcountBits != 16:
		return message("Different refcount widths than 16 bits require compatibility level 1.1 or above (use version=v3 or greater)")
	case o.DataFileRaw && !hasData:
		return message("data-file-raw requires data-file")
	case o.DataFileRaw && o.BackingFile != "":
		return message("Backing file and data-file-raw cannot be used at the same time")
	case o.Version < 3 && hasData:
		return message("External data files are " + only)
	case o.Version < 3 && o.CompressionType != qcow2.CompressionDeflate:
		return message("Non-zlib compression type is " + only)
	case hasData && o.DataFile == "":
		return message("Could not create '': No such file or directory")
	}
	return nil
}

// encryptOptions returns how a new image is to be encrypted, or nil.
func (c *command) encryptOptions(v *createValues, secrets imgopen.Secrets) (*qcow2.EncryptOptions, error) {
	format := v.get("encrypt.format")
	if v.on("encryption") && format == "" {
		format = "aes"
	}
	if format == "" {
		for _, o := range qcow2CryptOptions() {
			if _, ok := v.value[o.name]; ok && o.name != "encryption" {
				return nil, message("Parameter 'encrypt.format' is missing")
			}
		}
		return nil, nil
	}
	for name, words := range map[string]string{
		"cipher-alg": "aes-128 aes-192 aes-256 des 3des cast5-128 serpent-128 serpent-192 serpent-256 twofish-128 twofish-192 twofish-256", "cipher-mode": "ecb cbc xts ctr",
		"ivgen-alg": "plain plain64 essiv", "ivgen-hash-alg": "md5 sha1 sha224 sha256 sha384 sha512 ripemd160", "hash-alg": "md5 sha1 sha224 sha256 sha384 sha512 ripemd160",
	} {
		if value, ok := v.value["encrypt."+name]; ok && !slices.Contains(strings.Fields(words), value) {
			return nil, messagef("Parameter '%s' does not accept value '%s'", name, value)
		}
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
