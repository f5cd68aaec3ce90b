package luks_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/luks"
)

const password = "correct horse"

// qemuIO returns what one command of qemu-io prints on a LUKS volume in a
// file of its own.
func qemuIO(t *testing.T, name, command string) string {
	t.Helper()
	r := difftest.Try(t, difftest.Tool(t, "qemu-io", "7.2"),
		"--object", "secret,id=s,data="+password,
		"--image-opts", "driver=luks,key-secret=s,file.filename="+name, "-c", command)
	return string(r.Stdout) + string(r.Stderr)
}

// qemuMakes are the algorithms that qemu-img 7.2 makes a volume with; with
// 24-byte keys outside XTS it aborts.
func qemuMakes() []luks.Spec {
	var all []luks.Spec
	for _, s := range modes() {
		if s.KeyBytes != 24 && !strings.HasPrefix(s.Mode, "ecb-essiv") {
			all = append(all, s)
		}
	}
	for _, hash := range []string{"md5", "sha1", "sha224", "sha384", "sha512", "ripemd160"} {
		s := luks.DefaultSpec
		s.Hash = hash
		all = append(all, s)
	}
	return all
}

const first, pattern = 3, 0xa7 // the sector that is written, and with what

// Volumes made here hold in qemu what was written here.
func TestQemuReads(t *testing.T) {
	want := bytes.Repeat([]byte{pattern}, 4*luks.SectorSize)
	for _, s := range qemuMakes() {
		made, h, key := newVolume(t, s, "another", password)
		c, err := luks.NewCipher(s, key)
		if err != nil {
			t.Fatal(err)
		}
		payload := bytes.Clone(want)
		c.Encrypt(payload, payload, first)
		made.b = append(made.b, make([]byte, 1<<16)...)
		copy(made.b[h.PayloadOffset+first*luks.SectorSize:], payload)
		name := filepath.Join(t.TempDir(), "v.luks")
		if err := os.WriteFile(name, made.b, 0o600); err != nil {
			t.Fatal(err)
		}
		out := qemuIO(t, name, fmt.Sprintf("read -P %#x %d %d", pattern, first*luks.SectorSize, len(want)))
		if !strings.Contains(out, "read 2048/2048") || strings.Contains(out, "failed") {
			t.Errorf("%+v: qemu reads something else: %s", s, out)
		}
	}
}

// Volumes made by qemu hold here what qemu wrote. Making one takes qemu a
// second, so that a plain run draws some of them.
func TestReadsQemu(t *testing.T) {
	img := difftest.Tool(t, "qemu-img", "7.2")
	random := rand.New(rand.NewPCG(difftest.Seed(t, 1), 0))
	all := qemuMakes()
	for range difftest.Scale(t, 8) {
		s := all[random.IntN(len(all))]
		name := filepath.Join(t.TempDir(), "q.luks")
		want := bytes.Repeat([]byte{pattern}, 4*luks.SectorSize)
		difftest.Run(t, img, "create", "-q", "-f", "luks", "--object", "secret,id=s,data="+password, "-o", qemuOptions(s), name, "64K")
		qemuIO(t, name, fmt.Sprintf("write -P %#x %d %d", pattern, first*luks.SectorSize, len(want)))
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		h, err := luks.Read(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatalf("%+v: %v", s, err)
		}
		if h.Spec != s {
			t.Errorf("made with %+v, read as %+v", s, h.Spec)
		}
		_, own, _ := newVolume(t, s)
		if h.PayloadOffset != own.PayloadOffset || h.Slot[7].Offset != own.Slot[7].Offset {
			t.Errorf("%+v: qemu's slots and payload lie elsewhere: %+v", s, h)
		}
		key, slot, err := h.Unlock(t.Context(), bytes.NewReader(b), []byte(password), 0)
		if err != nil || slot != 0 {
			t.Fatalf("%+v: slot %d, %v", s, slot, err)
		}
		c, err := luks.NewCipher(h.Spec, key)
		if err != nil {
			t.Fatal(err)
		}
		got := b[h.PayloadOffset+first*luks.SectorSize:][:len(want)]
		c.Decrypt(got, got, first)
		if !bytes.Equal(got, want) {
			t.Errorf("%+v: what qemu wrote reads as something else", s)
		}
	}
}

// qemuOptions returns a Spec in the words of qemu-img create.
func qemuOptions(s luks.Spec) string {
	chain, iv, _ := strings.Cut(s.Mode, "-")
	iv, ivHash, _ := strings.Cut(iv, ":")
	bits := s.KeyBytes * 8
	if chain == "xts" {
		bits /= 2
	}
	o := fmt.Sprintf("key-secret=s,iter-time=10,cipher-alg=%s-%d,cipher-mode=%s,ivgen-alg=%s,hash-alg=%s", s.Cipher, bits, chain, iv, s.Hash)
	if ivHash != "" {
		o += ",ivgen-hash-alg=" + ivHash
	}
	return o
}

func TestCryptsetupOpens(t *testing.T) {
	cryptsetup := difftest.Tool(t, "cryptsetup", "2.0")
	dir := t.TempDir()
	name, pass := filepath.Join(dir, "v.luks"), filepath.Join(dir, "pass")
	made, h, key := newVolume(t, luks.Spec{}, "first", password)
	store := func() {
		t.Helper()
		if err := os.WriteFile(name, append(made.b, make([]byte, 1<<20)...), 0o600); err != nil {
			t.Fatal(err)
		}
		if dump := difftest.Run(t, cryptsetup, "luksDump", name); !bytes.Contains(dump, []byte(h.UUID)) {
			t.Errorf("luksDump shows another UUID than %s:\n%s", h.UUID, dump)
		}
	}
	opens := func(passphrase string) bool {
		t.Helper()
		if err := os.WriteFile(pass, []byte(passphrase), 0o600); err != nil {
			t.Fatal(err)
		}
		return difftest.Try(t, cryptsetup, "open", "--test-passphrase", "--key-file", pass, name).Code == 0
	}
	store()
	if !opens("first") || !opens(password) || opens("other") {
		t.Error("cryptsetup disagrees about which passphrases open")
	}
	if err := h.EraseKey(made, 0, nil); err != nil {
		t.Fatal(err)
	}
	if err := h.AddKey(t.Context(), made, 5, key, []byte("sixth"), reproducible()); err != nil {
		t.Fatal(err)
	}
	store()
	if opens("first") || !opens(password) || !opens("sixth") {
		t.Error("cryptsetup disagrees after slots were erased and added")
	}
}
