package imgopen

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// Secrets are passphrases by the id that other options name them by.
type Secrets map[string][]byte

// Add adds what the argument of --object defines: secret,id=ID with data=TEXT
// or file=PATH, and format=raw or format=base64; or the same as an object in
// JSON. With keyid=ID and iv=BASE64 it is encrypted with another secret: by
// AES-256 in CBC mode, padded as PKCS #7 says.
func (s Secrets) Add(def string) error {
	o := newOptions(def)
	if strings.HasPrefix(def, "{") {
		var err error
		if o, err = parseJSON(def, def); err != nil {
			return err
		}
	} else {
		for i, p := range SplitOptions(def) {
			if p.Bare && i == 0 {
				p.Key, p.Value = "qom-type", p.Key
			}
			o.value[p.Key] = p.Value
		}
	}
	return s.add(o)
}

func (s Secrets) add(o options) error {
	kind, ok := o.take("qom-type")
	switch {
	case !ok:
		return messagef("Parameter 'qom-type' is missing")
	case kind != "secret":
		return messagef("Objects of type '%s' are not supported, only 'secret'", kind)
	}
	id, ok := o.take("id")
	switch {
	case !ok:
		return messagef("Parameter 'id' is missing")
	case !regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]*$`).MatchString(id):
		return messagef("Parameter 'id' expects an identifier\nIdentifiers consist of letters, digits, '-', '.', '_', starting with a letter.")
	}
	format, ok := o.take("format")
	if ok && format != "raw" && format != "base64" {
		return messagef("Parameter 'format' does not accept value '%s'", format)
	}
	data, haveData := o.take("data")
	file, haveFile := o.take("file")
	keyID, encrypted := o.take("keyid")
	iv, _ := o.take("iv")
	if left := slices.Sorted(maps.Keys(o.value)); len(left) > 0 {
		return messagef("Parameter '%s' is unexpected", left[0])
	}
	switch {
	case haveData == haveFile && haveData:
		return messagef("'file' and 'data' are mutually exclusive")
	case haveFile:
		b, err := readSecret(file)
		if err != nil {
			return messagef("Unable to read %s: %v", file, &osError{err})
		}
		data = string(b)
	case !haveData:
		return messagef("Either 'file' or 'data' must be provided")
	}
	secret := []byte(data)
	if format == "base64" {
		b, err := decode(data)
		if err != nil {
			return err
		}
		secret = b
	}
	if encrypted {
		b, err := s.decrypt(secret, keyID, iv)
		if err != nil {
			return err
		}
		secret = b
	}
	if _, ok := s[id]; ok {
		return messagef("attempt to add duplicate property '%s' to object (type 'container')", id)
	}
	s[id] = secret
	return nil
}

// decode decodes base64, which may be broken into lines.
func decode(text string) ([]byte, error) {
	b, err := base64.StdEncoding.DecodeString(strings.NewReplacer("\n", "", "\r", "").Replace(text))
	if err != nil {
		return nil, messagef("Base64 data contains invalid characters")
	}
	return b, nil
}

// decrypt returns what a secret holds that is encrypted with another.
func (s Secrets) decrypt(secret []byte, keyID, iv string) ([]byte, error) {
	key, ok := s[keyID]
	switch {
	case !ok:
		return nil, messagef("No secret with id '%s'", keyID)
	case len(key) != 32:
		return nil, messagef("Key should be 32 bytes in length")
	case iv == "":
		return nil, messagef("IV is required to decrypt secret")
	}
	start, err := decode(iv)
	switch {
	case err != nil:
		return nil, err
	case len(start) != aes.BlockSize:
		return nil, messagef("IV should be %d bytes in length not %d", aes.BlockSize, len(start))
	case len(secret)%aes.BlockSize != 0:
		return nil, messagef("Length %d must be a multiple of block size %d", len(secret), aes.BlockSize)
	case len(secret) == 0:
		return nil, nil
	}
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	plain := make([]byte, len(secret))
	cipher.NewCBCDecrypter(b, start).CryptBlocks(plain, secret)
	padding := int(plain[len(plain)-1])
	if padding == 0 || padding > aes.BlockSize {
		return nil, messagef("Incorrect number of padding bytes (%d) found on decrypted data", padding)
	}
	return plain[:len(plain)-padding], nil
}

// maxSecret is the most bytes of a file that holds a secret.
const maxSecret = 1 << 20

// readSecret reads a file, of which it reads no more than a secret has.
func readSecret(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err == nil && len(b) > maxSecret {
		err = messagef("more than %d bytes", maxSecret)
	}
	return b, err
}

// Get returns a copy of the secret of that id.
func (s Secrets) Get(id string) ([]byte, error) {
	b, ok := s[id]
	switch {
	case !ok:
		return nil, messagef("No secret with id '%s'", id)
	case !utf8.Valid(b):
		return nil, messagef("Data from secret %s is not valid UTF-8", id)
	}
	return append([]byte(nil), b...), nil
}
