//go:build unix

package main

import (
	"os"
	"os/signal"
	"syscall"
)

// askedForProgress returns where SIGUSR1 arrives.
func askedForProgress() <-chan os.Signal {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGUSR1)
	return c
}
