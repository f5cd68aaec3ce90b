package ivshmem_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/virtfmt/virtfmt/ivshmem"
)

// A server shares memory between two clients, either of which could be a QEMU
// with "-chardev socket,path=PATH,id=iv -device ivshmem-doorbell,chardev=iv".
func ExampleServer() {
	dir, err := os.MkdirTemp("/tmp", "iv") // a socket's path must be short
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "socket")

	server, err := ivshmem.NewServer(&ivshmem.ServerOptions{Size: 1 << 20})
	if err != nil {
		log.Fatal(err)
	}
	listener, err := ivshmem.Listen(path)
	if err != nil {
		log.Fatal(err)
	}
	go server.Serve(listener)
	defer server.Close()

	ctx := context.Background()
	var clients [2]*ivshmem.Client
	for i := range clients {
		c, err := ivshmem.Dial(ctx, path, nil)
		if err != nil {
			log.Fatal(err)
		}
		defer c.Close()
		for c.Vectors() == 0 { // its own vector comes last
			if _, err := c.Next(ctx); err != nil {
				log.Fatal(err)
			}
		}
		clients[i] = c
	}

	e, err := clients[0].Next(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(e)

	memory, err := clients[1].Map()
	if err != nil {
		log.Fatal(err)
	}
	copy(memory, "hello")
	if err := clients[1].Ring(0, 0); err != nil {
		log.Fatal(err)
	}

	e, err = clients[0].Next(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(e)
	seen, err := clients[0].Map()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", seen[:5])
	// Output:
	// peer 1: vector 0 connected
	// vector 0 interrupted, 1 times
	// hello
}
