//go:build !unix

package main

import "os"

// askedForProgress returns nil: nobody can ask here.
func askedForProgress() <-chan os.Signal { return nil }
