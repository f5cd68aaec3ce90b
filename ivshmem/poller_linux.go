package ivshmem

import (
	"net"
	"os"
	"syscall"
	"time"
)

// A poller waits until one of many descriptors can be read. It is an epoll
// instance that the runtime's poller watches in turn, so that waiting takes no
// thread, and closing or a deadline ends it.
type poller struct {
	f      *os.File
	rc     syscall.RawConn
	events [32]syscall.EpollEvent
}

func newPoller() (*poller, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := syscall.SetNonblock(fd, true); err != nil { // what os.NewFile goes by
		syscall.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	p := &poller{f: os.NewFile(uintptr(fd), "epoll")}
	if p.rc, err = p.f.SyscallConn(); err != nil {
		p.f.Close()
		return nil, err
	}
	return p, nil
}

func (p *poller) ctl(op, fd int, key int32) error {
	return control(p.f, func(epfd int) error {
		e := &syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: key}
		return os.NewSyscallError("epoll_ctl", syscall.EpollCtl(epfd, op, fd, e))
	})
}

// addConn watches a connection; wait reports it by its key.
func (p *poller) addConn(conn *net.UnixConn, key int32) error {
	return control(conn, func(fd int) error { return p.ctl(syscall.EPOLL_CTL_ADD, fd, key) })
}

func (p *poller) removeConn(conn *net.UnixConn) error {
	return control(conn, func(fd int) error { return p.ctl(syscall.EPOLL_CTL_DEL, fd, 0) })
}

// add watches a descriptor; wait reports it by its key.
func (p *poller) add(d *descriptor, key int32) error { return p.ctl(syscall.EPOLL_CTL_ADD, d.fd, key) }

// remove no longer watches a descriptor, which others may still hold.
func (p *poller) remove(d *descriptor) error { return p.ctl(syscall.EPOLL_CTL_DEL, d.fd, 0) }

// wait waits for descriptors that can be read, and appends their keys to keys.
func (p *poller) wait(keys []int32) ([]int32, error) {
	var n int
	var err error
	rerr := p.rc.Read(func(epfd uintptr) bool {
		n, err = syscall.EpollWait(int(epfd), p.events[:], 0)
		return n > 0 || err != nil && err != syscall.EINTR
	})
	if rerr != nil {
		return keys, rerr
	}
	if err != nil {
		return keys, os.NewSyscallError("epoll_wait", err)
	}
	for _, e := range p.events[:n] {
		keys = append(keys, e.Fd)
	}
	return keys, nil
}

// setDeadline ends a wait at t.
func (p *poller) setDeadline(t time.Time) error { return p.f.SetReadDeadline(t) }

func (p *poller) close() error { return p.f.Close() }
