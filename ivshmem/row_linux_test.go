package ivshmem_test

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/ivshmem"
)

// hears takes in the next message of a client: known counts the vectors of each
// peer.
func (c *rawClient) hears(known map[int64]int) int64 {
	c.t.Helper()
	num, fd, err := c.next()
	switch {
	case err != nil:
		c.t.Fatal(err)
	case fd >= 0:
		known[num]++
	case known[num] == 0:
		c.t.Fatalf("%d is said to be gone that was not there", num)
	default:
		delete(known, num)
	}
	return num
}

// TestServerTellsWhatIs has clients join, leave, and read as much of what they
// are told as they like. In the end each must know exactly who is there.
func TestServerTellsWhatIs(t *testing.T) {
	const vectors = 3
	seed := difftest.Seed(t, 1)
	for round := range uint64(difftest.Scale(t, 6)) {
		rng := rand.New(rand.NewPCG(seed, round))
		s, path, stop := serve(t, &ivshmem.ServerOptions{Vectors: vectors, Size: 1 << 16})
		type client struct {
			*rawClient
			id    int64
			known map[int64]int
		}
		var clients []client
		join := func() {
			c := dialRaw(t, path)
			var id int64
			for i := range 3 {
				num, _, err := c.next()
				if err != nil {
					t.Fatal(err)
				}
				if i == 1 {
					id = num
				}
			}
			clients = append(clients, client{c, id, map[int64]int{}})
			waitFor(t, "the client to be there", func() bool { return len(s.Clients()) == len(clients) })
		}
		for range mostClients(t, 60, 200) {
			switch n := rng.IntN(len(clients) + 1); {
			case rng.IntN(3) > 0 || n == len(clients):
				join()
			default:
				clients[n].close()
				clients = slices.Delete(clients, n, n+1)
				waitFor(t, "the client to be gone", func() bool { return len(s.Clients()) == len(clients) })
			}
			if len(clients) > 0 && rng.IntN(2) == 0 {
				c := clients[rng.IntN(len(clients))]
				// Of itself at least it is told something.
				for range rng.IntN(5) {
					if c.known[c.id] < vectors {
						c.hears(c.known)
					}
				}
			}
		}
		join() // which everybody hears of last
		last := clients[len(clients)-1].id
		want := map[int64]int{}
		for _, c := range clients {
			want[c.id] = vectors
		}
		for _, c := range clients {
			for c.known[last] < vectors {
				c.hears(c.known)
			}
			if diff := cmp.Diff(want, c.known); diff != "" {
				t.Fatalf("round %d: client %d knows (-want +got)\n%s", round, c.id, diff)
			}
		}
		for _, c := range clients {
			c.close()
		}
		stop()
	}
}

// TestStalledClientsCostLittle has many that read no more than they must.
func TestStalledClientsCostLittle(t *testing.T) {
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	n := mostClients(t, difftest.Scale(t, 400), 50)
	_, path := startServer(t, nil)
	before := heap()
	for range n {
		dialRaw(t, path).next()
	}
	if cost := int64(heap() - before); cost > 1<<20+int64(n)*8<<10 {
		t.Errorf("%d bytes of memory for %d clients", cost, n)
	}
}
