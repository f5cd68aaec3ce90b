package block_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/virtfmt/virtfmt/internal/block"
)

func TestLength(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(name, make([]byte, 777), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if n, err := block.Length(f); n != 777 || err != nil {
		t.Errorf("os.File: %d, %v", n, err)
	}
	if n, err := block.Length(bytes.NewReader(make([]byte, 5))); n != 5 || err != nil {
		t.Errorf("bytes.Reader: %d, %v", n, err)
	}
	s := struct{ io.ReadSeeker }{bytes.NewReader(make([]byte, 9))}
	if _, err := s.Seek(3, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if n, err := block.Length(s); n != 9 || err != nil {
		t.Errorf("Seeker: %d, %v", n, err)
	}
	if here, _ := s.Seek(0, io.SeekCurrent); here != 3 {
		t.Errorf("Length left the seeker at %d", here)
	}
	if _, err := block.Length(struct{ io.ReaderAt }{f}); !errors.Is(err, block.ErrNoLength) {
		t.Errorf("a bare ReaderAt: %v", err)
	}
}

func TestFollows(t *testing.T) {
	e := block.Extent{Start: 0, Length: 10, Kind: block.Data, HostOffset: 100}
	for _, c := range []struct {
		name string
		next block.Extent
		want bool
	}{
		{"next", block.Extent{Start: 10, Length: 5, Kind: block.Data, HostOffset: 110}, true},
		{"gap", block.Extent{Start: 11, Length: 5, Kind: block.Data, HostOffset: 111}, false},
		{"other place", block.Extent{Start: 10, Length: 5, Kind: block.Data, HostOffset: 200}, false},
		{"other layer", block.Extent{Start: 10, Length: 5, Kind: block.Data, HostOffset: 110, Depth: 1}, false},
		{"other kind", block.Extent{Start: 10, Length: 5, Kind: block.Zero, HostOffset: 110}, false},
		{"no place", block.Extent{Start: 10, Length: 5, Kind: block.Data, HostOffset: block.NoOffset}, false},
	} {
		if got := c.next.Follows(e); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	z := block.Extent{Start: 0, Length: 10, HostOffset: block.NoOffset}
	if !(block.Extent{Start: 10, Length: 1, HostOffset: block.NoOffset}).Follows(z) {
		t.Error("unallocated does not follow unallocated")
	}
}
