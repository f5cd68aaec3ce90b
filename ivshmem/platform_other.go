//go:build !linux

package ivshmem

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"time"
)

// Passing descriptors, eventfds and shared memory are parts of Linux. Elsewhere
// a Device works, and a Server or Client cannot be made.
var errNotLinux = fmt.Errorf("shared memory and interrupts between processes on %s: %w", runtime.GOOS, errors.ErrUnsupported)

func newEventfds(int) ([]*descriptor, error) { return nil, errNotLinux }

func checkEventfd(int) error { return errNotLinux }

func (d *descriptor) ring() error { return errNotLinux }

func (d *descriptor) drain() (uint64, error) { return 0, errNotLinux }

func closeFD(int) {}

func sendMessage(*net.UnixConn, int64, *descriptor, func() bool) error { return errNotLinux }

func receiveMessage(*net.UnixConn, []byte) (int, []int, error) { return 0, nil, errNotLinux }

func credentials(*net.UnixConn) (Credentials, error) { return Credentials{}, errNotLinux }

func refuseConnections(*os.File) error { return errNotLinux }

func refuseWaiting(*os.File) error { return errNotLinux }

func sharedDescriptor(*os.File) (*descriptor, error) { return nil, errNotLinux }

func isStale(error) bool { return false }

func inUse(error) bool { return false }

func lockSocket(string) (unlock func(), err error) { return func() {}, nil }

func hungUp(error) bool { return false }

func isTransient(error) bool { return false }

func shmPath(string) (string, error) { return "", errNotLinux }

func mapMemory(*os.File, int) ([]byte, error) { return nil, errNotLinux }

func unmapMemory([]byte) error { return errNotLinux }

// A poller cannot be made.
type poller struct{}

func newPoller() (*poller, error) { return nil, errNotLinux }

func (p *poller) addConn(*net.UnixConn, int32) error { return errNotLinux }

func (p *poller) removeConn(*net.UnixConn) error { return errNotLinux }

func (p *poller) add(*descriptor, int32) error { return errNotLinux }

func (p *poller) remove(*descriptor) error { return errNotLinux }

func (p *poller) wait([]int32) ([]int32, error) { return nil, errNotLinux }

func (p *poller) setDeadline(time.Time) error { return errNotLinux }

func (p *poller) close() error { return errNotLinux }
