package ivshmem_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/ivshmem"
)

func TestListen(t *testing.T) {
	path := filepath.Join(difftest.SocketDir(t), "iv")
	l, err := ivshmem.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ivshmem.Listen(path); err == nil {
		t.Error("a socket that is in use was replaced")
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if l, err = ivshmem.Listen(path); err != nil {
		t.Fatalf("a stale socket was not replaced: %v", err)
	}
	l.Close()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ivshmem.Listen(path); err == nil {
		t.Error("a file was replaced")
	}
	link := filepath.Join(filepath.Dir(path), "link")
	if err := os.Symlink("nowhere", link); err != nil {
		t.Fatal(err)
	}
	if _, err := ivshmem.Listen(link); err == nil {
		t.Error("a symbolic link was replaced")
	}
	if _, err := ivshmem.Listen(filepath.Join(path, "x")); err == nil {
		t.Error("listening below a file")
	}
}

// TestListenAtOnce has many begin at once where there is a socket that a server
// has left, or none. Exactly one gets it, and can be reached.
func TestListenAtOnce(t *testing.T) {
	path := filepath.Join(difftest.SocketDir(t), "iv")
	for round := range difftest.Scale(t, 200) {
		const many = 8
		var listeners [many]*net.UnixListener
		var wg sync.WaitGroup
		begin := make(chan struct{})
		for i := range many {
			wg.Go(func() {
				<-begin
				listeners[i], _ = ivshmem.Listen(path)
			})
		}
		close(begin)
		wg.Wait()
		won := 0
		for _, l := range listeners {
			if l == nil {
				continue
			}
			won++
			dialled(t, path, l)
			l.SetUnlinkOnClose(round%4 == 0)
			l.Close()
		}
		if won != 1 {
			t.Fatalf("round %d: %d of %d listen", round, won, many)
		}
	}
	if names, err := filepath.Glob(path + "*"); err != nil || len(names) > 1 {
		t.Errorf("left behind: %v, %v", names, err)
	}
}

// dialled checks that l is what is reached at path.
func dialled(t *testing.T, path string, l *net.UnixListener) {
	t.Helper()
	there, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	l.SetDeadline(time.Now().Add(patience))
	here, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	here.Close()
}

// TestListenAfter has a server begin while the one before it ends: as soon as
// it listens it is the one that is reached, and stays it.
func TestListenAfter(t *testing.T) {
	for range difftest.Scale(t, 200) {
		_, path, stop := serve(t, nil)
		next := make(chan *net.UnixListener)
		go func() {
			for {
				l, err := ivshmem.Listen(path)
				if err == nil {
					next <- l
					return
				}
				if !errors.Is(err, syscall.EADDRINUSE) {
					t.Error(err)
					close(next)
					return
				}
			}
		}()
		stop()
		l, ok := <-next
		if !ok {
			return
		}
		dialled(t, path, l)
		l.Close()
	}
}

// TestLockFile: a lock file that is left behind does no harm, and one that is
// none is an error.
func TestLockFile(t *testing.T) {
	path := filepath.Join(difftest.SocketDir(t), "iv")
	if err := os.WriteFile(path+".lock", []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := ivshmem.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	for name, make := range map[string]func(string) error{
		"directory": func(name string) error { return os.Mkdir(name, 0o700) },
		"link":      func(name string) error { return os.Symlink("elsewhere", name) },
	} {
		if err := make(path + ".lock"); err != nil {
			t.Fatal(err)
		}
		if l, err := ivshmem.Listen(path); err == nil {
			l.Close()
			t.Errorf("a %s was taken for a lock", name)
		}
		if err := os.Remove(path + ".lock"); err != nil {
			t.Fatal(err)
		}
	}
	abstract := fmt.Sprintf("@virtfmt-test-%d", os.Getpid())
	if l, err = ivshmem.Listen(abstract); err != nil {
		t.Fatal(err)
	}
	l.Close()
	if _, err := os.Lstat(abstract + ".lock"); err == nil {
		t.Error("an abstract name has a lock file")
	}
}
