package ivshmem

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"
)

// sendMessage sends a number, and a descriptor with it unless d is nil. It
// waits while the socket is full, and while too many descriptors are under way
// to clients that do not read; abandoned tells it to stop waiting for those.
func sendMessage(conn *net.UnixConn, num int64, d *descriptor, abandoned func() bool) error {
	b := encodeMessage(num)
	var rights []byte
	if d != nil {
		rights = syscall.UnixRights(d.fd)
	}
	const shortest, longest = time.Millisecond, 100 * time.Millisecond
	for wait := shortest; ; wait = min(2*wait, longest) {
		n, _, err := conn.WriteMsgUnix(b[:], rights, nil)
		if err == nil && n < len(b) {
			_, err = conn.Write(b[n:])
		}
		if !errors.Is(err, syscall.ETOOMANYREFS) || abandoned() {
			return err
		}
		time.Sleep(wait)
	}
}

// receiveMessage reads at most len(b) bytes and the descriptors that come with
// them. The caller owns the descriptors, whatever the error.
func receiveMessage(conn *net.UnixConn, b []byte) (n int, fds []int, err error) {
	// Room for more than the one descriptor that a message may have: what does
	// not fit would be lost without a sign of how many there were.
	var oob [256]byte
	n, oobn, flags, _, err := conn.ReadMsgUnix(b, oob[:])
	if err != nil {
		return 0, nil, err
	}
	messages, err := syscall.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return n, nil, os.NewSyscallError("recvmsg", err)
	}
	for i := range messages {
		if got, err := syscall.ParseUnixRights(&messages[i]); err == nil {
			fds = append(fds, got...)
		}
	}
	if flags&syscall.MSG_CTRUNC != 0 {
		err = errors.New("file descriptors were lost: this process cannot open more")
	}
	return n, fds, err
}

func credentials(conn *net.UnixConn) (c Credentials, err error) {
	err = control(conn, func(fd int) error {
		u, err := syscall.GetsockoptUcred(fd, syscall.SOL_SOCKET, syscall.SO_PEERCRED)
		if err != nil {
			return os.NewSyscallError("getsockopt", err)
		}
		c = Credentials{PID: int(u.Pid), UID: int(u.Uid), GID: int(u.Gid)}
		return nil
	})
	return c, err
}

// refuseConnections makes the kernel refuse further connections to a socket.
// Those that it has taken already wait there.
func refuseConnections(socket *os.File) error {
	return control(socket, func(fd int) error {
		return os.NewSyscallError("shutdown", syscall.Shutdown(fd, syscall.SHUT_RD))
	})
}

// refuseWaiting refuses the connections that wait at a socket.
func refuseWaiting(socket *os.File) error {
	b := encodeMessage(refusal)
	return control(socket, func(fd int) error {
		for end := time.Now().Add(greetTime); ; {
			conn, _, err := syscall.Accept4(fd, syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK)
			switch {
			case err == nil:
				syscall.Write(conn, b[:]) // fits the buffer, unless the client is gone
				syscall.Close(conn)
			case err == syscall.EAGAIN:
				return nil
			case err != syscall.EINTR && !isTransient(err) || time.Now().After(end):
				return os.NewSyscallError("accept4", err)
			default:
				time.Sleep(time.Millisecond) // clients that leave free descriptors
			}
		}
	})
}

// sharedDescriptor returns a descriptor of its own for f.
func sharedDescriptor(f *os.File) (*descriptor, error) {
	var d *descriptor
	err := control(f, func(fd int) error {
		dup, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_DUPFD_CLOEXEC, 0)
		if errno != 0 {
			return fmt.Errorf("%s: %w", f.Name(), os.NewSyscallError("fcntl", errno))
		}
		d = newDescriptor(int(dup))
		return nil
	})
	return d, err
}

// hungUp reports whether reading or writing failed because the client has
// closed the connection, perhaps with messages waiting for it.
func hungUp(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// isTransient reports whether accepting failed for want of something that may
// be had later.
func isTransient(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// control calls do with the descriptor of a file, connection or listener, which
// is not closed meanwhile.
func control(c syscall.Conn, do func(fd int) error) error {
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := rc.Control(func(fd uintptr) { err = do(int(fd)) }); cerr != nil {
		return cerr
	}
	return err
}
