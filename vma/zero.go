package vma

import "bytes"

var zeroCluster [ClusterSize]byte

// isZero reports whether b, of at most one cluster, is all zero.
func isZero(b []byte) bool { return bytes.Equal(b, zeroCluster[:len(b)]) }
