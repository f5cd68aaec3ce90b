//go:build unix

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
)

// inheritEnv tells a process that it is the one in the background.
const inheritEnv = "IVSHMEM_SERVER_IN_BACKGROUND"

func inBackground() bool { return os.Getenv(inheritEnv) != "" }

// goToBackground starts this program again, away from the terminal, with the
// socket and the memory open, and writes its process ID to a file. Whatever can
// fail has failed before.
func goToBackground(args []string, pidFile string, l *net.UnixListener, memory *os.File) error {
	l.SetUnlinkOnClose(false)
	err := spawn(args, pidFile, l, memory)
	if err != nil {
		l.SetUnlinkOnClose(true)
	}
	return errors.Join(err, l.Close())
}

func spawn(args []string, pidFile string, l *net.UnixListener, memory *os.File) error {
	pid, err := os.Create(pidFile)
	if err != nil {
		return err
	}
	defer pid.Close()
	socket, err := l.File()
	if err != nil {
		return err
	}
	defer socket.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), inheritEnv+"=1")
	cmd.ExtraFiles = []*os.File{socket, memory}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	_, err = fmt.Fprintln(pid, cmd.Process.Pid)
	return err
}

// inherited returns the socket and the memory that goToBackground left open.
func inherited() (*net.UnixListener, *os.File, error) {
	const first = 3
	socket := os.NewFile(first, "socket")
	defer socket.Close()
	l, err := net.FileListener(socket)
	if err != nil {
		return nil, nil, err
	}
	ul, ok := l.(*net.UnixListener)
	if !ok {
		return nil, nil, fmt.Errorf("descriptor %d is no Unix socket", first)
	}
	ul.SetUnlinkOnClose(true)
	return ul, os.NewFile(first+1, "memory"), nil
}
