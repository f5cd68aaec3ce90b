//go:build !unix

package main

import (
	"errors"
	"net"
	"os"
)

func inBackground() bool { return false }

func goToBackground([]string, string, *net.UnixListener, *os.File) error {
	return errors.ErrUnsupported
}

func inherited() (*net.UnixListener, *os.File, error) { return nil, nil, errors.ErrUnsupported }
