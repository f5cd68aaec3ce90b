//go:build !linux

// Package memfd makes files that live in memory and have no name.
package memfd

import (
	"errors"
	"fmt"
	"os"
	"runtime"
)

// Create returns an error: only Linux has files in memory.
func Create(string, int64) (*os.File, error) {
	return nil, fmt.Errorf("memory file on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

// Sealed reports false.
func Sealed(*os.File) bool { return false }
