package imgopen_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/examples/internal/imgopen"
	"github.com/virtfmt/virtfmt/qcow2"
	"github.com/virtfmt/virtfmt/qed"
	"github.com/virtfmt/virtfmt/vma"
)

const size = 1 << 20

// text is what the first bytes of an image hold.
func text(name string) []byte { return []byte("this is " + name) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newFile(t *testing.T, name string) *os.File {
	t.Helper()
	f, err := os.Create(name)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// writeImage makes an image in the folder.
func writeImage(t *testing.T, name string, o *qcow2.CreateOptions) {
	t.Helper()
	f := newFile(t, name)
	im, err := qcow2.Create(f, size, o)
	must(t, err)
	if o == nil || o.BackingFile == "" {
		_, err = im.WriteAt(text(name), 0)
		must(t, err)
	}
	must(t, im.Close())
}

// inFolder makes a folder of images and goes there:
//
//	base.raw, plain.qcow2, plain.qed
//	over.qcow2      on base.raw
//	sub/up.qcow2    on ../over.qcow2
//	loop.qcow2      on itself
//	part.raw        base.raw with 512 bytes before it
//	backup.vma      devices one and two
//	data.qcow2      in data.raw
func inFolder(t *testing.T) {
	t.Helper()
	t.Chdir(t.TempDir())
	raw := make([]byte, size)
	copy(raw, text("base.raw"))
	must(t, os.WriteFile("base.raw", raw, 0o600))
	must(t, os.WriteFile("part.raw", append(make([]byte, 512), raw...), 0o600))
	writeImage(t, "plain.qcow2", nil)
	writeImage(t, "over.qcow2", &qcow2.CreateOptions{BackingFile: "base.raw", BackingFormat: "raw"})
	must(t, os.Mkdir("sub", 0o700))
	writeImage(t, "sub/up.qcow2", &qcow2.CreateOptions{BackingFile: "../over.qcow2", BackingFormat: "qcow2"})
	writeImage(t, "loop.qcow2", &qcow2.CreateOptions{BackingFile: "loop.qcow2", BackingFormat: "qcow2"})
	writeImage(t, "lost.qcow2", &qcow2.CreateOptions{BackingFile: "nosuch", BackingFormat: "raw"})
	writeImage(t, "named.qcow2", &qcow2.CreateOptions{
		BackingFile:   `json:{"driver":"raw","offset":512,"file":{"filename":"part.raw"}}`,
		BackingFormat: "raw",
	})
	writeImage(t, "data.qcow2", &qcow2.CreateOptions{DataFile: "data.raw", Data: newFile(t, "data.raw")})
	writeImage(t, "luks.qcow2", &qcow2.CreateOptions{Encrypt: &qcow2.EncryptOptions{
		Passphrase: []byte("abc"), Method: qcow2.CryptLUKS, Key: qcow2.KeyOptions{Iterations: 1000},
	}})
	e, err := qed.Create(newFile(t, "plain.qed"), size, nil)
	must(t, err)
	_, err = e.WriteAt(text("plain.qed"), 0)
	must(t, err)
	must(t, e.Close())
	writeArchive(t)
}

func writeArchive(t *testing.T) {
	t.Helper()
	w, err := vma.NewWriter(newFile(t, "backup.vma"), &vma.Header{
		Devices: []vma.DeviceInfo{{Name: "one", Size: size}, {Name: "two", Size: size}},
	}, nil)
	must(t, err)
	for i, name := range []string{"one", "two"} {
		raw := make([]byte, size)
		copy(raw, text(name))
		must(t, w.ReadFrom(t.Context(), uint8(i+1), bytes.NewReader(raw), nil))
	}
	must(t, w.Close())
}

func TestOpen(t *testing.T) {
	inFolder(t)
	secrets := imgopen.Secrets{}
	must(t, secrets.Add("secret,id=s,data=YWJj,format=base64"))
	must(t, secrets.Add(`{"qom-type":"secret","id":"w","data":"wrong"}`))
	list := &imgopen.Options{ImageOpts: true, Secrets: secrets}
	for _, c := range []struct {
		name   string
		o      *imgopen.Options
		holds  string // the image whose text it has
		fails  string // or what the error speaks of
		format string
	}{
		{name: "base.raw", holds: "base.raw", format: "raw"},
		{name: "plain.qcow2", holds: "plain.qcow2", format: "qcow2"},
		{name: "plain.qed", holds: "plain.qed", format: "qed"},
		{name: "file:plain.qed", holds: "plain.qed", format: "qed"},
		{name: "sub/up.qcow2", holds: "base.raw", format: "qcow2"},
		{name: "named.qcow2", holds: "base.raw", format: "qcow2"},
		{name: "data.qcow2", holds: "data.qcow2", format: "qcow2"},
		{name: "vma:two:backup.vma", holds: "two", format: "vma"},
		{name: "plain.qed", o: &imgopen.Options{Format: "file"}, format: "file"},
		{name: "backup.vma", fails: "one two"},
		{name: "vma:three:backup.vma", fails: "one two"},
		{name: "loop.qcow2", fails: "backs itself"},
		{name: "lost.qcow2", fails: "Could not open backing file: Could not open 'nosuch': No such file"},
		{name: "lost.qcow2", o: &imgopen.Options{NoBacking: true}, format: "qcow2"},
		{name: "lost.qcow2", o: &imgopen.Options{MetadataOnly: true}, format: "qcow2"},
		{name: "luks.qcow2", fails: "'encrypt.key-secret' is required"},
		{name: "nbd:localhost:1", fails: "Protocol 'nbd' is not supported"},
		{name: "sub", fails: "regular file"},
		{name: "base.raw", o: &imgopen.Options{Format: "qcow2"}, fails: "not in qcow2 format"},
		{name: "base.raw", o: &imgopen.Options{Format: "qed"}, fails: "not in QED format"},
		{name: "base.raw", o: &imgopen.Options{Format: "nosuch"}, fails: "Unknown driver 'nosuch'"},
		{name: "", fails: "requires a file name"},

		{name: "driver=qcow2,file.filename=plain.qcow2", o: list, holds: "plain.qcow2", format: "qcow2"},
		{name: "file.driver=file,file.filename=plain.qed", o: list, holds: "plain.qed", format: "qed"},
		{name: "driver=raw,offset=512,file.filename=part.raw", o: list, holds: "base.raw", format: "raw"},
		{name: "driver=raw,file.driver=raw,file.offset=0.5k,file.file.filename=part.raw", o: list, holds: "base.raw", format: "raw"},
		{name: "driver=vma,device=one,file.filename=backup.vma", o: list, holds: "one", format: "vma"},
		{name: "driver=qcow2,file.filename=over.qcow2,backing.driver=qed,backing.file.filename=plain.qed", o: list, holds: "plain.qed", format: "qcow2"},
		{name: "driver=qcow2,file.filename=over.qcow2,backing.offset=4", o: list, holds: "raw", format: "qcow2"},
		{name: "driver=qcow2,encrypt.key-secret=s,file.filename=luks.qcow2", o: list, holds: "luks.qcow2", format: "qcow2"},
		{name: "driver=qcow2,encrypt.key-secret=w,file.filename=luks.qcow2", o: list, fails: "Invalid password"},
		{name: "driver=qcow2,encrypt.key-secret=x,file.filename=luks.qcow2", o: list, fails: "No secret with id 'x'"},
		{name: "driver=qcow2,data-file.filename=base.raw,file.filename=data.qcow2", o: list, holds: "base.raw", format: "qcow2"},
		{name: "driver=qcow2,read-only=on,l2-cache-size=1M,file.locking=off,file.filename=plain.qcow2", o: list, holds: "plain.qcow2", format: "qcow2"},
		{name: "plain.qcow2", o: list, fails: "Cannot find device='plain.qcow2'"},
		{name: "driver=qcow2", o: list, fails: "block device must be specified"},
		{name: "filename=plain.qcow2", o: list, fails: "either driver or file"},
		{name: "driver=qcow2,file.filename=plain.qcow2,foo=1", o: list, fails: "'qcow2' does not support the option 'foo'"},
		{name: "driver=qcow2,file.filename=plain.qcow2,file.foo=1", o: list, fails: "'file' doesn't support the option 'foo'"},

		{name: `json:{"driver":"qcow2","file":{"driver":"file","filename":"plain.qcow2"}}`, holds: "plain.qcow2", format: "qcow2"},
		{name: `json:{"driver":"raw","offset":512,"size":4096,"file.filename":"part.raw"}`, holds: "base.raw", format: "raw"},
		{name: `json:{"driver":"qcow2","file.filename":"lost.qcow2","backing":null}`, format: "qcow2"},
		{name: `json:{}`, fails: "either driver or file"},
		{name: `json:x`, fails: "JSON"},
		{name: `json:[]`, fails: "JSON"},
	} {
		img, err := imgopen.Open(c.name, c.o)
		if c.fails != "" {
			if err == nil || !strings.Contains(err.Error(), c.fails) {
				t.Errorf("%s: the error is %v, not of %q", c.name, err, c.fails)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if img.Format != c.format {
			t.Errorf("%s: the format is %s, not %s", c.name, img.Format, c.format)
		}
		if want := text(c.holds); c.holds != "" {
			if c.holds == "raw" {
				want = text("base.raw")[4:]
			}
			got := make([]byte, len(want))
			if _, err := img.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: it holds %q, not %q, %v", c.name, got, want, err)
			}
		}
		must(t, img.Close())
	}
}

func TestNames(t *testing.T) {
	inFolder(t)
	for name, want := range map[string]string{
		"plain.qcow2":      "plain.qcow2",
		"file:plain.qcow2": "plain.qcow2",
		`json:{"driver":"qcow2","file":{"driver":"file","filename":"plain.qcow2"}}`: "plain.qcow2",
		`json:{"driver":"raw","offset":"512","size":"1024","file.filename":"part.raw"}`: `json:{"offset": "512", "driver": "raw", "size": "1024", ` +
			`"file": {"driver": "file", "filename": "part.raw"}}`,
	} {
		img, err := imgopen.Open(name, nil)
		must(t, err)
		if img.Name != want {
			t.Errorf("%s: the name is %s, not %s", name, img.Name, want)
		}
		must(t, img.Close())
	}
	img, err := imgopen.Open("sub/up.qcow2", nil)
	must(t, err)
	defer img.Close()
	if got := img.Layer(2).Name; got != "sub/../base.raw" {
		t.Errorf("the base is called %s", got)
	}
	if img.Layer(3) != nil {
		t.Error("there is a fourth layer")
	}
}

func TestWrite(t *testing.T) {
	inFolder(t)
	for _, name := range []string{"plain.qcow2", "plain.qed", "base.raw"} {
		var warned string
		img, err := imgopen.Open(name, &imgopen.Options{Write: true, Warn: func(m string) { warned = m }})
		must(t, err)
		if (warned != "") != (name == "base.raw") {
			t.Errorf("%s: warned %q", name, warned)
		}
		if _, err := imgopen.Open(name, nil); err == nil && runtime.GOOS == "linux" {
			t.Errorf("%s: it could be opened while it was being written", name)
		}
		if _, err := img.Writer().WriteAt([]byte("new"), 4096); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		must(t, img.Close())
		img, err = imgopen.Open(name, nil)
		must(t, err)
		got := make([]byte, 3)
		if _, err := img.ReadAt(got, 4096); err != nil || string(got) != "new" {
			t.Errorf("%s: it holds %q, %v", name, got, err)
		}
		if img.Writer() != nil {
			t.Errorf("%s: it can be written though it was opened for reading", name)
		}
		must(t, img.Close())
	}
}

// What was taken for raw must not become something else.
func TestGuard(t *testing.T) {
	inFolder(t)
	img, err := imgopen.Open("base.raw", &imgopen.Options{Write: true})
	must(t, err)
	defer img.Close()
	if _, err := img.Writer().WriteAt([]byte("QFI\xfb\x00\x00\x00\x03"), 0); !errors.Is(err, os.ErrPermission) {
		t.Errorf("writing the magic of qcow2: %v", err)
	}
	if _, err := img.Writer().WriteAt([]byte("harmless"), 0); err != nil {
		t.Error(err)
	}
}

func TestForeignFormats(t *testing.T) {
	t.Chdir(t.TempDir())
	for magic, format := range map[string]string{"KDMV": "vmdk", "vhdxfile": "vhdx", "conectix": "vpc", "QFI\xfb\x00\x00\x00\x01": "qcow", "LUKS\xba\xbe": "luks"} {
		must(t, os.WriteFile("x", append([]byte(magic), make([]byte, 4096)...), 0o600))
		if _, err := imgopen.Open("x", nil); err == nil || !strings.Contains(err.Error(), format) {
			t.Errorf("%s: %v", format, err)
		}
		img, err := imgopen.Open("x", &imgopen.Options{Format: "raw"})
		must(t, err)
		must(t, img.Close())
	}
}

func TestLargeSecret(t *testing.T) {
	name := filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(name, nil, 0o666))
	must(t, os.Truncate(name, 1<<40)) // much more than there is memory
	if err := (imgopen.Secrets{}).Add("secret,id=s,file=" + name); err == nil {
		t.Error("no error")
	}
}

func TestSecrets(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	must(t, os.WriteFile(file, []byte("from a file"), 0o600))
	for def, want := range map[string]string{
		"secret,id=s,data=a,,b":                        "a,b",
		"secret,id=s,data=YQ==,format=base64":          "a",
		"secret,id=s,file=" + file:                     "from a file",
		`{"qom-type":"secret","id":"s","data":"json"}`: "json",
		"secret,id=s":                                  "",
		"secret,data=x":                                "",
		"secret,id=s,data=x,file=y":                    "",
		"secret,id=s,data=x,format=y":                  "",
		"secret,id=s,data=x,foo=y":                     "",
		"secret,id=s,data=x,keyid=y":                   "",
		"secret,id=1s,data=x":                          "",
		"secret,id=s,data=Y!,format=base64":            "",
		"tls-creds-x509,id=s":                          "",
		"secret,id=s,file=/nosuch/key":                 "",
	} {
		s := imgopen.Secrets{}
		err := s.Add(def)
		if string(s["s"]) != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v", def, s["s"], err)
		}
	}
}

// A secret that is encrypted with another, made by
//
//	printf geheim | openssl enc -aes-256-cbc -a -A -K 6b6b... -iv 6969...
func TestEncryptedSecrets(t *testing.T) {
	key := strings.Repeat("k", 32)
	const secret = "L9Gs4iwP2n/OwjM/QyTyQA=="
	iv := "aWlpaWlpaWlpaWlpaWlpaQ=="
	for def, want := range map[string]string{
		"keyid=m,format=base64,iv=" + iv + ",data=" + secret:                         "geheim",
		"keyid=m,format=base64,data=" + secret:                                       "",
		"keyid=m,format=base64,iv=YWJj,data=" + secret:                               "",
		"keyid=n,format=base64,iv=" + iv + ",data=" + secret:                         "",
		"keyid=short,format=base64,iv=" + iv + ",data=" + secret:                     "",
		"keyid=m,iv=" + iv + ",data=" + secret:                                       "",
		"keyid=m,format=base64,iv=" + iv + ",data=AAAAAAAAAAAAAAAAAAAAAAAAAAAA":      "",
		"keyid=m,format=base64,iv=" + iv + ",data=" + strings.Repeat("A", 22) + "==": "",
	} {
		s := imgopen.Secrets{"m": []byte(key), "short": []byte("short")}
		err := s.Add("secret,id=s," + def)
		if string(s["s"]) != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v", def, s["s"], err)
		}
	}
	s := imgopen.Secrets{"s": []byte("\xff")}
	if _, err := s.Get("s"); err == nil {
		t.Error("a passphrase is no UTF-8")
	}
	if err := s.Add("secret,id=s,data=x"); err == nil {
		t.Error("an id is given twice")
	}
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{
		"1": 1, "1b": 1, "1K": 1 << 10, "1k": 1 << 10, "1.5k": 1536, "0x10": 16, "0x1E": 30, "0x10k": 16 << 10, "010": 10, " 1": 1, "+1": 1,
		"1.99999k": 2048, "1.k": 1024, "1.0": 1, "1.0b": 1, "7.9E": 9108079886394091136, "3P": 3 << 50, "2T": 2 << 40,
		"": -1, "1.5": -1, "1.5b": -1, ".5k": -1, "1e3": -1, "1kb": -1, "-1": -1, "1x": -1, "1 ": -1, "1,5": -1, "k": -1, "0x": -1, "0x1.5k": -1,
		"8E": -2, "16E": -2, "99999999999999999999": -2,
	} {
		n, err := imgopen.ParseSize(s)
		switch {
		case want == -1 && !errors.Is(err, imgopen.ErrSize), want == -2 && !errors.Is(err, imgopen.ErrSizeRange), want >= 0 && (n != want || err != nil):
			t.Errorf("%q: %d, %v", s, n, err)
		}
	}
}

func TestPart(t *testing.T) {
	inFolder(t)
	img, err := imgopen.Open("driver=raw,offset=512,size=1024,file.filename=part.raw", &imgopen.Options{ImageOpts: true, Write: true})
	must(t, err)
	defer img.Close()
	if img.Size() != 1024 {
		t.Errorf("the size is %d", img.Size())
	}
	if _, err := img.Writer().WriteAt(make([]byte, 2), 1023); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("writing past the end: %v", err)
	}
	all, err := io.ReadAll(io.NewSectionReader(img, 0, 1<<20))
	if err != nil || len(all) != 1024 || !bytes.HasPrefix(all, text("base.raw")) {
		t.Errorf("read %d bytes, %v", len(all), err)
	}
}
