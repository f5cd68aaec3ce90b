package ivshmem

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/virtfmt/virtfmt/internal/difftest"
)

// TestIDsDoNotComeBack plays clients that come and go, each remembering whom
// it has heard of.
func TestIDsDoNotComeBack(t *testing.T) {
	rnd := rand.New(rand.NewPCG(difftest.Seed(t, 1), 0))
	var pool idPool
	type holder struct {
		id     uint16
		heard  map[uint16]int // ID to who it was
		serial int
	}
	present := map[uint16]*holder{}
	serial := 0
	for range difftest.Scale(t, 20_000) {
		if len(present) > 0 && rnd.IntN(2) == 0 {
			for id := range present {
				delete(present, id)
				pool.leave(id)
				break
			}
			continue
		}
		id, ok := pool.take()
		if !ok {
			t.Fatal("no ID")
		}
		if rnd.IntN(8) == 0 {
			pool.giveBack(id)
			if again, _ := pool.take(); again != id {
				t.Fatalf("ID %d after %d was given back", again, id)
			}
			pool.giveBack(id)
			continue
		}
		serial++
		h := &holder{id: id, heard: map[uint16]int{}, serial: serial}
		for _, p := range present {
			if was, ok := p.heard[id]; ok {
				t.Fatalf("client %d knows ID %d as client %d, now it is client %d", p.serial, id, was, serial)
			}
			p.heard[id], h.heard[p.id] = serial, p.serial
		}
		present[id] = h
		if len(present) == 1 && id != 0 {
			t.Fatalf("the only client has ID %d", id)
		}
	}
}

func TestIDsRunOut(t *testing.T) {
	var pool idPool
	for want := range uint16(3) {
		if id, ok := pool.take(); id != want || !ok {
			t.Fatalf("ID %d, %v, want %d", id, ok, want)
		}
	}
	for id := 1; id <= MaxID; id++ {
		pool.leave(uint16(id))
	}
	if id, ok := pool.take(); ok {
		t.Fatalf("ID %d, though client 0 has heard of all", id)
	}
	pool.leave(0)
	if id, ok := pool.take(); id != 0 || !ok {
		t.Fatalf("ID %d, %v after the last client left, want 0", id, ok)
	}
}

// TestIDsOfALongLife: while one client stays, each of the others has the next
// ID, however many there were.
func TestIDsOfALongLife(t *testing.T) {
	var pool idPool
	start := time.Now()
	for want := 0; want <= MaxID; want++ {
		id, ok := pool.take()
		if int(id) != want || !ok {
			t.Fatalf("ID %d, %v, want %d", id, ok, want)
		}
		if id > 0 {
			pool.leave(id)
		}
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
}
