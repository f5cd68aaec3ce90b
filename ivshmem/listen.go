package ivshmem

import (
	"errors"
	"io/fs"
	"net"
	"os"
)

// Listen listens on a Unix socket at path. A socket that a server which is gone
// has left there is replaced; one that is in use is an error. Of many that begin
// at once exactly one gets the socket: while each looks, it holds a lock on a
// file beside the socket, named as that is with ".lock" behind it, which it
// then removes. A path that begins with @ is abstract, as in package net.
func Listen(path string) (*net.UnixListener, error) {
	addr := &net.UnixAddr{Name: path, Net: "unix"}
	if path == "" || path[0] == '@' {
		return net.ListenUnix("unix", addr)
	}
	unlock, err := lockSocket(path)
	if err != nil {
		return nil, err
	}
	defer unlock()
	for {
		l, err := net.ListenUnix("unix", addr)
		if err == nil || !inUse(err) || !vacate(addr) {
			return l, err
		}
	}
}

// vacate reports whether the name of a socket is free now: removes it if nobody
// listens there.
func vacate(addr *net.UnixAddr) bool {
	conn, err := net.DialUnix("unix", nil, addr)
	if err == nil {
		conn.Close()
		return false
	}
	fi, serr := os.Lstat(addr.Name)
	if errors.Is(serr, fs.ErrNotExist) {
		return true // that of a server which has ended just now
	}
	return isStale(err) && serr == nil && fi.Mode().Type() == fs.ModeSocket && os.Remove(addr.Name) == nil
}
