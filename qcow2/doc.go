// Package qcow2 reads, writes, creates and checks qcow2 disk images, the
// format of QEMU, in versions 2 and 3.
package qcow2
