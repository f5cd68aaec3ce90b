package qcow2_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qcow2"
)

// An encrypted image gets a second passphrase.
func ExampleImage_AddPassphrase() {
	quick := qcow2.KeyOptions{Iterations: 1000} // leave it out: few make guessing cheap
	f := memfile.New()                          // in memory: an *os.File does as well
	img, err := qcow2.Create(f, 1<<20, &qcow2.CreateOptions{
		Encrypt: &qcow2.EncryptOptions{Passphrase: []byte("first"), Key: quick},
	})
	if err != nil {
		log.Fatal(err)
	}
	slot, err := img.AddPassphrase(context.Background(), []byte("first"), []byte("second"), qcow2.AnySlot, &quick)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("key slot", slot)
	if err := img.Close(); err != nil {
		log.Fatal(err)
	}
	for _, passphrase := range []string{"second", "wrong"} {
		_, err := qcow2.Open(f, &qcow2.Options{
			Passphrase: func() ([]byte, error) { return []byte(passphrase), nil }, // is wiped
		})
		fmt.Println(passphrase, err == nil, errors.Is(err, qcow2.ErrPassphrase))
	}
	// Output:
	// key slot 1
	// second true false
	// wrong false true
}
