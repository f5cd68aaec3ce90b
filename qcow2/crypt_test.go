package qcow2_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qcow2"
)

// cheap is a key slot that costs nothing to open, and the same every time.
func cheap() qcow2.KeyOptions {
	return qcow2.KeyOptions{Iterations: 3, Rand: rand.NewChaCha8([32]byte{7})}
}

// passphrase is what opens an image with s.
func passphrase(s string) *qcow2.Options {
	return &qcow2.Options{Passphrase: func() ([]byte, error) { return []byte(s), nil }}
}

func createEncrypted(tb testing.TB, size int64, o *qcow2.CreateOptions) (*memfile.File, *qcow2.Image) {
	tb.Helper()
	f := memfile.New()
	im, err := qcow2.Create(f, size, o)
	if err != nil {
		tb.Fatal(err)
	}
	return f, im
}

func luksOptions(cluster int64) *qcow2.CreateOptions {
	return &qcow2.CreateOptions{ClusterSize: cluster, Encrypt: &qcow2.EncryptOptions{Passphrase: []byte("secret"), Key: cheap()}}
}

func aesOptions(cluster int64) *qcow2.CreateOptions {
	return &qcow2.CreateOptions{ClusterSize: cluster, Encrypt: &qcow2.EncryptOptions{Method: qcow2.CryptAES, Passphrase: []byte("secret")}}
}

// TestEncryptedAgainstBytes does at random what can be done to an encrypted
// image and to an array of bytes, reopening now and then.
func TestEncryptedAgainstBytes(t *testing.T) {
	random := rand.New(rand.NewPCG(difftest.Seed(t, 1), 5))
	extended := luksOptions(16 << 10)
	extended.ExtendedL2 = true
	v2 := luksOptions(4 << 10)
	v2.Version = 2
	for name, o := range map[string]*qcow2.CreateOptions{
		"luks": luksOptions(4 << 10), "luks-512": luksOptions(512), "aes": aesOptions(4 << 10), "extended": extended, "v2": v2,
	} {
		t.Run(name, func(t *testing.T) {
			const size = 300<<10 + 512
			f, im := createEncrypted(t, size, o)
			want := make([]byte, size)
			for range difftest.Scale(t, 400) {
				off := random.IntN(size)
				n := min(1+random.IntN(40<<random.IntN(11)), size-off)
				switch random.IntN(8) {
				case 0, 1, 2, 3:
					p := bytes.Repeat([]byte{byte(1 + random.IntN(255))}, n)
					if _, err := im.WriteAt(p, int64(off)); err != nil {
						t.Fatal(err)
					}
					copy(want[off:], p)
				case 4:
					if err := im.WriteZeroesAt(int64(off), int64(n)); err != nil {
						t.Fatal(err)
					}
					clear(want[off : off+n])
				case 5, 6:
					p := make([]byte, n)
					if _, err := im.ReadAt(p, int64(off)); err != nil && err != io.EOF {
						t.Fatal(err)
					}
					if !bytes.Equal(p, want[off:off+n]) {
						t.Fatalf("%d bytes at %d differ", n, off)
					}
				default:
					if random.IntN(4) != 0 {
						continue
					}
					if err := im.Close(); err != nil {
						t.Fatal(err)
					}
					var err error
					if im, err = qcow2.OpenRW(f, passphrase("secret")); err != nil {
						t.Fatal(err)
					}
				}
			}
			got := make([]byte, size)
			if _, err := im.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
				t.Errorf("the disk differs at %d, %v", differ(got, want), err)
			}
			if r, err := im.Check(t.Context(), nil); err != nil || !r.Clean() {
				t.Errorf("%+v, %v", counts(r), err)
			}
			if err := im.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestNothingIsInTheClear(t *testing.T) {
	for name, o := range map[string]*qcow2.CreateOptions{"luks": luksOptions(4096), "aes": aesOptions(4096)} {
		f, im := createEncrypted(t, 1<<20, o)
		secret := []byte("a very secret text")
		for _, off := range []int64{0, 5000, 70000} {
			if _, err := im.WriteAt(secret, off); err != nil {
				t.Fatal(err)
			}
		}
		// Twice the same plaintext is not twice the same ciphertext.
		if err := im.Close(); err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(f.Bytes(), secret) {
			t.Errorf("%s: the plaintext is in the file", name)
		}
		if bytes.Contains(f.Bytes(), []byte("secret")) {
			t.Errorf("%s: the passphrase is in the file", name)
		}
	}
}

func TestPassphrases(t *testing.T) {
	f, im := createEncrypted(t, 1<<20, luksOptions(4096))
	want := []byte("content")
	if _, err := im.WriteAt(want, 77); err != nil {
		t.Fatal(err)
	}
	opens := func(s string) bool {
		t.Helper()
		if err := im.Sync(); err != nil {
			t.Fatal(err)
		}
		ro, err := qcow2.Open(f, passphrase(s))
		if errors.Is(err, qcow2.ErrPassphrase) {
			return false
		}
		if err != nil {
			t.Fatal(err)
		}
		defer ro.Close()
		got := make([]byte, len(want))
		if _, err := ro.ReadAt(got, 77); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%q reads %q, %v", s, got, err)
		}
		return true
	}
	key := cheap()
	add := func(existing, added string, slot, want int) {
		t.Helper()
		if got, err := im.AddPassphrase(t.Context(), []byte(existing), []byte(added), slot, &key); err != nil || got != want {
			t.Errorf("adding %q: slot %d, %v; want slot %d", added, got, err, want)
		}
	}
	add("secret", "second", qcow2.AnySlot, 1)
	add("second", "sixth", 5, 5)
	add("secret", "second", qcow2.AnySlot, 2) // once more
	if !opens("secret") || !opens("second") || !opens("sixth") || opens("third") || opens("") {
		t.Error("the wrong passphrases open the image")
	}
	if _, err := im.AddPassphrase(t.Context(), []byte("wrong"), []byte("x"), qcow2.AnySlot, &key); !errors.Is(err, qcow2.ErrPassphrase) {
		t.Errorf("adding with a wrong one: %v", err)
	}
	if _, err := im.AddPassphrase(t.Context(), []byte("secret"), []byte("x"), 5, &key); err == nil {
		t.Error("adding to a slot in use succeeds")
	}
	if n, err := im.RemovePassphrase(t.Context(), []byte("second")); n != 2 || err != nil {
		t.Errorf("removing one of two slots: %d, %v", n, err)
	}
	if _, err := im.RemovePassphrase(t.Context(), []byte("second")); !errors.Is(err, qcow2.ErrPassphrase) {
		t.Errorf("removing it again: %v", err)
	}
	if err := im.EraseSlot(0, false); err != nil {
		t.Error(err)
	}
	if opens("secret") || opens("second") || !opens("sixth") {
		t.Error("after removing: the wrong passphrases open the image")
	}
	if err := im.EraseSlot(5, false); !errors.Is(err, qcow2.ErrLastPassphrase) {
		t.Errorf("erasing the last slot: %v", err)
	}
	if _, err := im.RemovePassphrase(t.Context(), []byte("sixth")); !errors.Is(err, qcow2.ErrLastPassphrase) {
		t.Errorf("removing the last passphrase: %v", err)
	}
	for _, slot := range []int{0, 1, 2, 3, 4, 6, 7} {
		add("sixth", "more", qcow2.AnySlot, slot)
	}
	if _, err := im.AddPassphrase(t.Context(), []byte("sixth"), []byte("x"), qcow2.AnySlot, &key); err == nil {
		t.Error("a ninth passphrase was added")
	}
	if err := im.EraseSlot(8, true); err == nil {
		t.Error("slot 8 was erased")
	}
}

func TestEncryptedWithoutPassphrase(t *testing.T) {
	f, im := createEncrypted(t, 1<<20, luksOptions(4096))
	if _, err := im.WriteAt([]byte("content"), 0); err != nil {
		t.Fatal(err)
	}
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := qcow2.Open(f, nil); !errors.Is(err, qcow2.ErrPassphrase) {
		t.Errorf("without a passphrase: %v", err)
	}
	boom := errors.New("boom")
	if _, err := qcow2.Open(f, &qcow2.Options{Passphrase: func() ([]byte, error) { return nil, boom }}); !errors.Is(err, boom) {
		t.Errorf("a passphrase that cannot be had: %v", err)
	}
	im, err := qcow2.OpenRW(f, &qcow2.Options{MetadataOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	if _, err := im.ReadAt(make([]byte, 10), 0); !errors.Is(err, qcow2.ErrMetadataOnly) {
		t.Errorf("reading ciphertext: %v", err)
	}
	if _, err := im.WriteAt(make([]byte, 10), 0); !errors.Is(err, qcow2.ErrMetadataOnly) {
		t.Errorf("writing plaintext: %v", err)
	}
	e, err := im.Encryption()
	if err != nil || e.Method != qcow2.CryptLUKS || e.Cipher != "aes-256" || e.CipherMode != "xts" || e.IVGen != "plain64" ||
		e.IVGenHash != "" || e.Hash != "sha256" || !e.Slots[0].Active || e.Slots[0].Iterations != 3 || e.Slots[1].Active {
		t.Errorf("%+v, %v", e, err)
	}
	for ext, err := range im.Extents(0, 4096) {
		if err != nil || ext.Kind != qcow2.Data || ext.HostOffset != qcow2.NoOffset {
			t.Errorf("%+v, %v", ext, err)
		}
	}
}

func TestPassphraseIsWiped(t *testing.T) {
	f, im := createEncrypted(t, 1<<20, luksOptions(4096))
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
	given := []byte("secret")
	im, err := qcow2.Open(f, &qcow2.Options{Passphrase: func() ([]byte, error) { return given, nil }})
	if err != nil || !bytes.Equal(given, make([]byte, 6)) {
		t.Errorf("after opening it is %q, %v", given, err)
	}
	im.Close()
}

func TestKeyDerivationIsBounded(t *testing.T) {
	o := luksOptions(4096)
	o.Encrypt.Key.Iterations = 20000
	f, im := createEncrypted(t, 1<<20, o)
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
	open := passphrase("secret")
	open.MaxKeyIterations = 10000
	_, err := qcow2.Open(f, open)
	if fe := (*qcow2.FormatError)(nil); !errors.Is(err, qcow2.ErrLimit) || !errors.As(err, &fe) {
		t.Errorf("over the limit: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	open = passphrase("secret")
	open.Context = ctx
	if _, err := qcow2.Open(f, open); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	o.Encrypt.Context = ctx
	if _, err := qcow2.Create(memfile.New(), 1<<20, o); !errors.Is(err, context.Canceled) {
		t.Errorf("creating, cancelled: %v", err)
	}
}

// TestCreateWithoutPassphrase: a passphrase that was forgotten is no empty one.
func TestCreateWithoutPassphrase(t *testing.T) {
	f := memfile.FromBytes([]byte("kept"))
	if _, err := qcow2.Create(f, 1<<20, &qcow2.CreateOptions{Encrypt: &qcow2.EncryptOptions{}}); !errors.Is(err, qcow2.ErrPassphrase) {
		t.Errorf("without a passphrase: %v", err)
	}
	if string(f.Bytes()) != "kept" {
		t.Error("the file was written")
	}
	o := &qcow2.EncryptOptions{Passphrase: []byte{}, Key: cheap()}
	if _, err := qcow2.Create(f, 1<<20, &qcow2.CreateOptions{Encrypt: o}); err != nil {
		t.Errorf("with an empty one: %v", err)
	}
}

// TestKeysConcurrentWithChanges: key slots are changed and listed while the
// header is.
func TestKeysConcurrentWithChanges(t *testing.T) {
	_, im := createEncrypted(t, 1<<20, luksOptions(4096))
	n := difftest.Scale(t, 10)
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range n {
			if err := im.AddBitmap(fmt.Sprint(i), nil); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Go(func() {
		key := cheap()
		for range n {
			slot, err := im.AddPassphrase(t.Context(), []byte("secret"), []byte("other"), qcow2.AnySlot, &key)
			if err != nil {
				t.Error(err)
				return
			}
			if e, err := im.Encryption(); err != nil || !e.Slots[slot].Active {
				t.Errorf("slot %d: %+v, %v", slot, e, err)
			}
			if err := im.EraseSlot(slot, false); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
}

func TestEncryptionUnsupported(t *testing.T) {
	for _, e := range []qcow2.EncryptOptions{
		{Cipher: "aes-192", CipherMode: "cbc"},
		{Cipher: "aes-999"},
		{Cipher: "rot13-128"},
		{Cipher: "aes"},
		{CipherMode: "gcm"},
		{IVGen: "random"},
		{Hash: "sha3"},
		{Method: 9},
		{Cipher: "cast5-128"},
		{Method: qcow2.CryptAES, Cipher: "aes-256"},
		{Method: qcow2.CryptAES, Hash: "sha256"},
	} {
		e.Passphrase = []byte("secret")
		if _, err := qcow2.Create(memfile.New(), 1<<20, &qcow2.CreateOptions{Encrypt: &e}); !errors.Is(err, errors.ErrUnsupported) || strings.Count(err.Error(), "qcow2: ") != 1 {
			t.Errorf("%+v: %v", e, err)
		}
	}
	_, im := createEncrypted(t, 1<<20, aesOptions(4096))
	if _, err := im.AddPassphrase(t.Context(), nil, nil, 0, nil); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("a second passphrase for AES: %v", err)
	}
	if e, err := im.Encryption(); err != nil || *e != (qcow2.Encryption{Method: qcow2.CryptAES}) {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestHostileEncryptionHeaders(t *testing.T) {
	f, im := createEncrypted(t, 1<<20, luksOptions(4096))
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
	good := f.Bytes()
	at := int64(bytes.Index(good, []byte("LUKS")))
	for name, change := range map[string]func(e *editor){
		"no LUKS header":       func(e *editor) { e.b[at] = 0 },
		"LUKS version":         func(e *editor) { e.b[at+7] = 2 },
		"slot without end":     func(e *editor) { e.put32(at+248, 0xffffffff) },
		"pointer past the end": func(e *editor) { e.put64(120, 1<<40) },
		"length too small":     func(e *editor) { e.put64(128, 500) },
		"length cuts a slot":   func(e *editor) { e.put64(128, 100000) },
		"cipher":               func(e *editor) { e.b[at+8] = 'x' },
	} {
		e := edit(bytes.Clone(good))
		change(e)
		if _, err := qcow2.Open(bytes.NewReader(e.b), passphrase("secret")); err == nil || errors.Is(err, qcow2.ErrPassphrase) {
			t.Errorf("%s: %v", name, err)
		}
	}
	e := edit(bytes.Clone(good))
	e.put32(32, 0) // the pointer stays
	if _, err := qcow2.Open(bytes.NewReader(e.b), passphrase("secret")); err == nil {
		t.Error("a LUKS pointer without the method was taken")
	}
}

// Writers of different bytes of one sector do not undo each other.
func TestEncryptedWritersShareSectors(t *testing.T) {
	const size, piece, writers = 64 << 10, 100, 8
	_, im := createEncrypted(t, size, luksOptions(4096))
	defer im.Close()
	want := make([]byte, size)
	var group sync.WaitGroup
	for w := range writers {
		for off := w * piece; off+piece <= size; off += writers * piece {
			copy(want[off:], bytes.Repeat([]byte{byte(1 + off/piece)}, piece))
		}
		group.Go(func() {
			for off := w * piece; off+piece <= size; off += writers * piece {
				if _, err := im.WriteAt(want[off:off+piece], int64(off)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	got := make([]byte, size)
	if _, err := im.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("differs at %d, %v", differ(got, want), err)
	}
}

func TestCopyEncrypted(t *testing.T) {
	_, im := createEncrypted(t, 1<<20, luksOptions(4096))
	defer im.Close()
	want := bytes.Repeat([]byte("content "), 1000)
	if _, err := im.WriteAt(want, 12345); err != nil {
		t.Fatal(err)
	}
	raw := memfile.New()
	if _, err := im.CopyTo(t.Context(), raw, nil); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(raw.Bytes()[12345:12345+len(want)], want) {
		t.Error("the copy differs")
	}
}

func BenchmarkEncrypted(b *testing.B) {
	for name, o := range map[string]*qcow2.CreateOptions{"luks": luksOptions(64 << 10), "aes": aesOptions(64 << 10)} {
		f := memfile.New()
		im, err := qcow2.Create(f, 64<<20, o)
		if err != nil {
			b.Fatal(err)
		}
		p := make([]byte, 64<<10)
		for off := int64(0); off < im.Size(); off += int64(len(p)) {
			if _, err := im.WriteAt(p, off); err != nil {
				b.Fatal(err)
			}
		}
		for _, n := range []int{4096, 65536} {
			b.Run(fmt.Sprintf("%s/read=%d", name, n), func(b *testing.B) {
				b.SetBytes(int64(n))
				b.ReportAllocs()
				off := int64(0)
				for b.Loop() {
					if _, err := im.ReadAt(p[:n], off); err != nil {
						b.Fatal(err)
					}
					off = (off + 1<<20 + int64(n)) % im.Size() &^ 4095
				}
			})
		}
		b.Run(name+"/write=65536", func(b *testing.B) {
			b.SetBytes(int64(len(p)))
			off := int64(0)
			for b.Loop() {
				if _, err := im.WriteAt(p, off); err != nil {
					b.Fatal(err)
				}
				off = (off + int64(len(p))) % im.Size()
			}
		})
	}
}

// A power cut while passphrases change leaves an image that all the others
// still open.
func TestPassphrasePowerCuts(t *testing.T) {
	random := rand.New(rand.NewPCG(difftest.Seed(t, 1), 7))
	f, im := createEncrypted(t, 64<<10, luksOptions(4096))
	want := []byte("content")
	if _, err := im.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	if err := im.Sync(); err != nil {
		t.Fatal(err)
	}
	f.Record()
	key := cheap()
	// Slot 6 lies across two sectors of the header.
	for slot := range qcow2.KeySlots {
		if slot == 0 {
			continue
		}
		if _, err := im.AddPassphrase(t.Context(), []byte("secret"), []byte("other"), slot, &key); err != nil {
			t.Fatal(err)
		}
		if err := im.EraseSlot(slot, false); err != nil {
			t.Fatal(err)
		}
	}
	for r := memfile.NewReplay(f); r.Next(); {
		if !chosen(t, random, 100) {
			continue
		}
		for range 4 {
			ro, err := qcow2.Open(r.Random(random), passphrase("secret"))
			if err != nil {
				t.Fatalf("after operation %d: %v", r.Point(), err)
			}
			got := make([]byte, len(want))
			if _, err := ro.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("after operation %d: %q, %v", r.Point(), got, err)
			}
			ro.Close()
		}
	}
}

// FuzzEncrypted: nothing in the headers of an encrypted image, its own or that
// of LUKS, makes opening, reading or writing it panic.
func FuzzEncrypted(f *testing.F) {
	for _, o := range []*qcow2.CreateOptions{luksOptions(4096), aesOptions(512)} {
		file := memfile.New()
		im, err := qcow2.Create(file, 64<<10, o)
		if err != nil {
			f.Fatal(err)
		}
		if _, err := im.WriteAt([]byte("content"), 5000); err != nil {
			f.Fatal(err)
		}
		if err := im.Close(); err != nil {
			f.Fatal(err)
		}
		b := file.Bytes()
		// What is mutated is the front; the key material behind it is as it was.
		f.Add(b[:min(len(b), 20<<10)], b[min(len(b), 20<<10):])
	}
	f.Fuzz(func(t *testing.T, front, rest []byte) {
		o := passphrase("secret")
		o.MaxKeyIterations = 100
		im, err := qcow2.OpenRW(memfile.FromBytes(append(bytes.Clone(front), rest...)), o)
		if err != nil {
			return
		}
		defer im.Close()
		p := make([]byte, 10000)
		im.ReadAt(p, 1)
		im.WriteAt(p[:100], 5001)
		im.Encryption()
	})
}
