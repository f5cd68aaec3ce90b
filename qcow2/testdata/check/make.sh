#!/bin/sh
# Makes the images of this directory with qemu-img and qemu-io 7.2.
set -e
make() { # name, options, size, unit of writes in KiB, anything for a bitmap instead of snapshots
	name=$1 u=$(($4 * 1024))
	at() { echo "$1 $(($2 * u)) $(($3 * u))"; }
	qemu-img create -q -f qcow2 -o "$2" "$name.qcow2" "$3"
	qemu-io -c "$(at 'write -P 1' 0 4)" -c "$(at 'write -P 2' 16 1)" -c "$(at 'write -z' 32 3)" "$name.qcow2"
	[ -n "$5" ] || qemu-img snapshot -c one "$name.qcow2"
	qemu-io -c "$(at 'write -P 4' 1 1)" -c "$(at discard 33 1)" -c "$(at 'write -z' 16 1)" "$name.qcow2"
	[ -n "$5" ] || qemu-img snapshot -c two "$name.qcow2"
	qemu-io -c "$(at 'write -P 5' 70 3)" -c "$(at 'write -c -P 6' 48 1)" -c "$(at 'write -c -P 7' 49 1)" "$name.qcow2"
	[ -z "$5" ] || qemu-img bitmap --add -g 512 "$name.qcow2" bitmap
	qemu-io -c "$(at 'write -P 8' 80 2)" "$name.qcow2"
	zstd -q -19 --rm -f "$name.qcow2"
}
make v3 cluster_size=4k 4M 4
make bitmap cluster_size=4k 4M 4 bitmap
make v2 cluster_size=512,compat=0.10 128k 1
make extended extended_l2=on,cluster_size=16k 4M 16
