package main

import (
	"os"
	"syscall"
	"time"
)

// What a shell sees as the exit code of a program that a signal ended is
// killedBy and its number.
const killedBy = 128

// maxSignal is the highest number that sigraise takes, as in qemu-io.
const maxSignal = 65

// abort ends the program. A shell sees it as ended by SIGABRT.
func (s *session) abort(*verb, []string) {
	s.out.Flush()
	os.Exit(killedBy + 6)
}

func (s *session) sigraise(_ *verb, args []string) {
	n, ok := s.number(args[0])
	if !ok {
		return
	}
	if n > maxSignal {
		s.failOut("signal argument '%s' is too large to be a valid signal\n", args[0])
		return
	}
	s.out.Flush()
	switch n {
	case 0, 7, 10, 13, 14, 17, 18, 23, 28, 29, 32, 33, 65: // these have no effect on qemu-io
	case 19, 20, 21, 22: // these stop it, until it is continued
		raise(syscall.Signal(n))
	case 3, 4, 5, 6, 8, 11: // at these Go's runtime would print what it was at
		os.Exit(killedBy + int(n))
	default:
		if raise(syscall.Signal(n)) == nil {
			time.Sleep(time.Second) // it arrives meanwhile
		}
		os.Exit(killedBy + int(n)) // it did not, or is one that Go's runtime heeds not
	}
}

// raise sends a signal to this process.
func raise(sig syscall.Signal) error {
	p, err := os.FindProcess(os.Getpid())
	if err != nil {
		return err
	}
	return p.Signal(sig)
}

// breakpoint refuses breakpoints in the words of qemu-io, where none can be
// set either unless the image lies on a driver that is made for them.
func (s *session) breakpoint(v *verb, args []string) {
	const unsupported = ": Operation not supported\n"
	switch v.name {
	case "break":
		s.failOut("Could not set breakpoint" + unsupported)
	case "remove_break":
		s.failOut("Could not remove breakpoint %s"+unsupported, args[0])
	case "resume":
		s.failOut("Could not resume request" + unsupported)
	case "wait_break": // qemu-io would wait for ever
		s.failOut("Could not wait for breakpoint %s"+unsupported, args[0])
	}
}
