package qcow2_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/qcow2"
)

// encrypted are the arguments by which the tools open an encrypted image.
func encrypted(name, password string) []string {
	return []string{"--object", "secret,id=s,data=" + password, "--image-opts", "driver=qcow2,encrypt.key-secret=s,file.filename=" + name}
}

// qemuIOEncrypted runs commands of qemu-io on an encrypted image, and fails
// the test if one fails.
func qemuIOEncrypted(t *testing.T, name, password string, commands ...string) {
	t.Helper()
	args := append([]string{"-t", "unsafe"}, encrypted(name, password)...)
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	out := difftest.Run(t, difftest.Tool(t, "qemu-io", "7.2"), args...)
	if bytes.Contains(out, []byte("failed")) {
		t.Errorf("qemu-io on %s: %s", name, out)
	}
}

// A way is one of the ways in which qemu-img encrypts.
type way struct {
	options string // of qemu-img create
	ours    qcow2.EncryptOptions
}

func ways() []way {
	return []way{
		{"encrypt.format=luks", qcow2.EncryptOptions{}},
		{"encrypt.format=aes", qcow2.EncryptOptions{Method: qcow2.CryptAES}},
		{"encrypt.format=luks,encrypt.cipher-alg=aes-128", qcow2.EncryptOptions{Cipher: "aes-128"}},
		{"encrypt.format=luks,encrypt.cipher-alg=aes-192", qcow2.EncryptOptions{Cipher: "aes-192"}},
		{"encrypt.format=luks,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv", qcow2.EncryptOptions{CipherMode: "cbc", IVGen: "essiv"}},
		{"encrypt.format=luks,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=plain", qcow2.EncryptOptions{CipherMode: "cbc", IVGen: "plain"}},
		{"encrypt.format=luks,encrypt.cipher-mode=ctr", qcow2.EncryptOptions{CipherMode: "ctr"}},
		{"encrypt.format=luks,encrypt.cipher-mode=ecb", qcow2.EncryptOptions{CipherMode: "ecb"}},
		{"encrypt.format=luks,encrypt.cipher-alg=serpent-256", qcow2.EncryptOptions{Cipher: "serpent-256"}},
		{"encrypt.format=luks,encrypt.cipher-alg=twofish-128", qcow2.EncryptOptions{Cipher: "twofish-128"}},
		{"encrypt.format=luks,encrypt.cipher-alg=cast5-128,encrypt.cipher-mode=cbc", qcow2.EncryptOptions{Cipher: "cast5-128", CipherMode: "cbc"}},
		{"encrypt.format=luks,encrypt.hash-alg=sha512", qcow2.EncryptOptions{Hash: "sha512"}},
	}
}

func (w way) qemuOptions() string {
	o := w.options + ",encrypt.key-secret=s"
	if w.ours.Method != qcow2.CryptAES {
		o += ",encrypt.iter-time=10"
	}
	return o
}

// randomCommands returns random commands of qemu-io and does the same to
// want.
func randomCommands(random *rand.Rand, want []byte, n int) []string {
	var commands []string
	for range n {
		off := random.IntN(len(want))
		length := min(1+random.IntN(64<<random.IntN(11)), len(want)-off)
		switch random.IntN(5) {
		case 0:
			commands = append(commands, fmt.Sprintf("write -z %d %d", off, length))
			clear(want[off : off+length])
		default:
			c := byte(1 + random.IntN(255))
			commands = append(commands, fmt.Sprintf("write -P %d %d %d", c, off, length))
			copy(want[off:], bytes.Repeat([]byte{c}, length))
		}
	}
	return commands
}

// do does the same commands here.
func do(t *testing.T, im *qcow2.Image, commands []string) {
	t.Helper()
	for _, c := range commands {
		var pattern, off, n int
		var err error
		if _, scan := fmt.Sscanf(c, "write -z %d %d", &off, &n); scan == nil {
			err = im.WriteZeroesAt(int64(off), int64(n))
		} else if _, scan := fmt.Sscanf(c, "write -P %d %d %d", &pattern, &off, &n); scan == nil {
			_, err = im.WriteAt(bytes.Repeat([]byte{byte(pattern)}, n), int64(off))
		} else {
			t.Fatalf("%s: %v", c, scan)
		}
		if err != nil {
			t.Fatalf("%s: %v", c, err)
		}
	}
}

// rawContent is what qemu-img convert makes of an encrypted image.
func rawContent(t *testing.T, name, password string) []byte {
	t.Helper()
	raw := name + ".raw"
	args := append([]string{"convert", "-O", "raw"}, encrypted(name, password)...)
	difftest.Run(t, difftest.Tool(t, "qemu-img", "7.2"), append(args, raw)...)
	return read(t, raw)
}

// TestEncryptedWithQemu makes images of every way here and by qemu-img, writes
// to them in turn here and by qemu-io, and compares what is read.
func TestEncryptedWithQemu(t *testing.T) {
	img := difftest.Tool(t, "qemu-img", "7.2")
	random := rand.New(rand.NewPCG(difftest.Seed(t, 1), 6))
	dir := difftest.FastDir(t)
	const size, password = 1<<20 + 512, "pass phrase"
	kinds := []struct {
		options string
		ours    qcow2.CreateOptions
	}{
		{"cluster_size=64k", qcow2.CreateOptions{}},
		{"cluster_size=512", qcow2.CreateOptions{ClusterSize: 512}},
		{"cluster_size=4k,compat=0.10", qcow2.CreateOptions{ClusterSize: 4096, Version: 2}},
		{"cluster_size=16k,extended_l2=on", qcow2.CreateOptions{ClusterSize: 16 << 10, ExtendedL2: true}},
	}
	// Making one takes qemu more than a second, so that a plain run draws some.
	byQemu := map[int]bool{0: true, 1: true}
	for range difftest.Scale(t, 4) {
		byQemu[random.IntN(len(ways()))] = true
	}
	for i, w := range ways() {
		kind := kinds[i%len(kinds)]
		makers := []string{"here"}
		if byQemu[i] {
			makers = append(makers, "qemu")
		}
		for _, maker := range makers {
			name := filepath.Join(dir, fmt.Sprint(i, maker, ".qcow2"))
			if maker == "qemu" {
				difftest.Run(t, img, "create", "-q", "-f", "qcow2", "--object", "secret,id=s,data="+password,
					"-o", kind.options+","+w.qemuOptions(), name, fmt.Sprint(size))
			} else {
				o := kind.ours
				o.Encrypt = &w.ours
				o.Encrypt.Passphrase, o.Encrypt.Key = []byte(password), cheap()
				f, err := os.Create(name)
				if err != nil {
					t.Fatal(err)
				}
				im, err := qcow2.Create(f, size, &o)
				if err != nil {
					t.Fatalf("%s: %v", w.options, err)
				}
				if err := im.Close(); err != nil {
					t.Fatal(err)
				}
				f.Close()
			}
			want := make([]byte, size)
			for range 2 {
				qemuIOEncrypted(t, name, password, randomCommands(random, want, 20)...)
				im, err := qcow2.OpenFile(name, &qcow2.Options{Write: true, Passphrase: func() ([]byte, error) { return []byte(password), nil }})
				if err != nil {
					t.Fatalf("%s, made by %s: %v", w.options, maker, err)
				}
				got := make([]byte, size)
				if _, err := im.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s, made by %s: what qemu wrote differs at %d, %v", w.options, maker, differ(got, want), err)
				}
				do(t, im, randomCommands(random, want, 20))
				if err := im.Close(); err != nil {
					t.Error(err)
				}
				if got := rawContent(t, name, password); !bytes.Equal(got, want) {
					t.Errorf("%s, made by %s: qemu reads something else from %d on", w.options, maker, differ(got, want))
				}
				if r := difftest.Try(t, img, append([]string{"check"}, encrypted(name, password)...)...); r.Code != 0 {
					t.Errorf("%s, made by %s: %s%s", w.options, maker, r.Stdout, r.Stderr)
				}
			}
		}
	}
}

// TestCreateEncryptedAsQemu compares all but the LUKS header, whose keys are
// random, with what qemu-img create makes.
func TestCreateEncryptedAsQemu(t *testing.T) {
	img := difftest.Tool(t, "qemu-img", "7.2")
	dir := difftest.FastDir(t)
	for _, c := range []struct {
		options string
		size    int64
		ours    qcow2.CreateOptions
	}{
		{"cluster_size=64k", 1 << 30, qcow2.CreateOptions{}},
		{"cluster_size=512", 1 << 20, qcow2.CreateOptions{ClusterSize: 512}},
		{"cluster_size=512,refcount_bits=64", 1 << 20, qcow2.CreateOptions{ClusterSize: 512, RefcountBits: 64}},
		{"cluster_size=4k,compat=0.10", 1 << 20, qcow2.CreateOptions{ClusterSize: 4096, Version: 2}},
		{"cluster_size=2M", 1 << 20, qcow2.CreateOptions{ClusterSize: 2 << 20}},
		{"cluster_size=4k,preallocation=metadata", 1 << 20, qcow2.CreateOptions{ClusterSize: 4096, Preallocation: qcow2.PreallocateMetadata}},
		{"cluster_size=512,preallocation=metadata", 1 << 20, qcow2.CreateOptions{ClusterSize: 512, Preallocation: qcow2.PreallocateMetadata}},
		{"cluster_size=4k,preallocation=full", 1 << 20, qcow2.CreateOptions{ClusterSize: 4096, Preallocation: qcow2.PreallocateFull}},
	} {
		name := filepath.Join(dir, "q.qcow2")
		os.Remove(name)
		difftest.Run(t, img, "create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=x",
			"-o", c.options+",encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10", name, fmt.Sprint(c.size))
		c.ours.Encrypt = &qcow2.EncryptOptions{Passphrase: []byte("x"), Key: cheap()}
		f, im := createEncrypted(t, c.size, &c.ours)
		if err := im.Close(); err != nil {
			t.Fatal(err)
		}
		ours, qemus := f.Bytes(), read(t, name)
		if len(ours) != len(qemus) {
			t.Errorf("%s: %d bytes, by qemu %d", c.options, len(ours), len(qemus))
			continue
		}
		at := bytes.Index(qemus, []byte("LUKS"))
		if at != bytes.Index(ours, []byte("LUKS")) {
			t.Errorf("%s: the LUKS header lies at %#x, by qemu at %#x", c.options, bytes.Index(ours, []byte("LUKS")), at)
			continue
		}
		clear(ours[at : at+0x1f9000])
		clear(qemus[at : at+0x1f9000])
		if !bytes.Equal(ours, qemus) {
			t.Errorf("%s: differs at %#x", c.options, differ(ours, qemus))
		}
	}
}

// TestPassphrasesWithQemu adds and removes passphrases here and by qemu-img
// amend.
func TestPassphrasesWithQemu(t *testing.T) {
	img := difftest.Tool(t, "qemu-img", "7.2")
	name := filepath.Join(difftest.FastDir(t), "slots.qcow2")
	difftest.Run(t, img, "create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=first",
		"-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10", name, "1M")
	qemuIOEncrypted(t, name, "first", "write -P 9 0 1000")
	open := func() *qcow2.Image {
		im, err := qcow2.OpenFile(name, &qcow2.Options{Write: true, MetadataOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		return im
	}
	im, key := open(), cheap()
	if _, err := im.AddPassphrase(t.Context(), []byte("first"), []byte("second"), qcow2.AnySlot, &key); err != nil {
		t.Fatal(err)
	}
	im.Close()
	qemuIOEncrypted(t, name, "second", "read -P 9 0 1000")
	amend := append([]string{"amend", "--object", "secret,id=n,data=third"}, encrypted(name, "second")...)
	difftest.Run(t, img, append(amend, "-o", "encrypt.state=active,encrypt.new-secret=n,encrypt.iter-time=10")...)
	im = open()
	if n, err := im.RemovePassphrase(t.Context(), []byte("first")); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	compareEncryption(t, im, name)
	im.Close()
	qemuIOEncrypted(t, name, "third", "read -P 9 0 1000")
	if r := difftest.Try(t, difftest.Tool(t, "qemu-io", "7.2"), append(encrypted(name, "first"), "-c", "read 0 512")...); r.Code == 0 {
		t.Error("a removed passphrase opens the image in qemu")
	}
	if r := difftest.Try(t, img, append([]string{"check"}, encrypted(name, "third")...)...); r.Code != 0 {
		t.Errorf("%s%s", r.Stdout, r.Stderr)
	}
}

// compareEncryption holds what Encryption tells against qemu-img info.
func compareEncryption(t *testing.T, im *qcow2.Image, name string) {
	t.Helper()
	var info struct {
		Specific struct {
			Data struct {
				Encrypt struct {
					Cipher     string `json:"cipher-alg"`
					CipherMode string `json:"cipher-mode"`
					IVGen      string `json:"ivgen-alg"`
					IVGenHash  string `json:"ivgen-hash-alg"`
					Hash       string `json:"hash-alg"`
					UUID       string `json:"uuid"`
					Payload    int64  `json:"payload-offset"`
					Iterations uint32 `json:"master-key-iters"`
					Slots      []struct {
						Active     bool   `json:"active"`
						Iterations uint32 `json:"iters"`
						Stripes    uint32 `json:"stripes"`
						Offset     int64  `json:"key-offset"`
					} `json:"slots"`
				} `json:"encrypt"`
			} `json:"data"`
		} `json:"format-specific"`
	}
	out := difftest.Run(t, difftest.Tool(t, "qemu-img", "7.2"), "info", "-U", "--output=json", "-f", "qcow2", name)
	if err := json.Unmarshal(out, &info); err != nil {
		t.Fatal(err)
	}
	e := info.Specific.Data.Encrypt
	want := &qcow2.Encryption{
		Method: qcow2.CryptLUKS, Cipher: e.Cipher, CipherMode: e.CipherMode, IVGen: e.IVGen, IVGenHash: e.IVGenHash,
		Hash: e.Hash, UUID: e.UUID, PayloadOffset: e.Payload, MasterKeyIterations: e.Iterations,
	}
	for i, s := range e.Slots {
		want.Slots[i] = qcow2.KeySlot{Active: s.Active, Iterations: s.Iterations, Stripes: 4000, Offset: s.Offset}
	}
	got, err := im.Encryption()
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	if !strings.Contains(string(out), got.UUID) {
		t.Errorf("UUID %q is not qemu's", got.UUID)
	}
}
