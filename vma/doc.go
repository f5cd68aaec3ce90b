// Package vma reads, verifies and writes VMA archives, the format of Proxmox's
// backups of virtual machines.
//
// An archive holds the configuration files of a machine, its disks, and
// optionally its state:
//
//	header     12288 bytes: uuid, time, tables of configs and devices
//	           blob buffer: names and configs, to a multiple of 512
//	extent     512 bytes: up to 59 slots {mask, device, cluster number}
//	           the stored blocks of these clusters, 4096 bytes each
//	extent ... to the end of the file
//
// A cluster is 64 KiB of a device, of which the blocks that are all zero are
// not stored. Every cluster of every device is listed exactly once, in any
// order: a backup of a running machine writes first what the machine is about
// to overwrite. Header and extent headers have an MD5 checksum; the data has
// none. Proxmox compresses the whole archive, if at all; see [Decompress].
//
// # Capabilities
//
//	                      stream         file
//	read                  NewReader      Open: at random, any device as a Disk
//	verify                VerifyStream   Verify: reads headers only
//	salvage damage        Salvage        Salvage
//	write                 NewWriter      -
//	change in place       -              -
//
// # Profiles
//
// Real archives differ from the specification, and readers differ in what they
// accept. A [Profile] chooses: [Proxmox], the default, agrees with Proxmox's
// own tool; [Strict] takes only what the format describes; [Salvage] goes on
// at damage. It repairs an extent header where the checksum proves the repair,
// and drops an extent of which bytes are missing or too many, since nobody can
// tell where, rather than read wrong data. A stream that fails, as that of a
// compressed archive does at damage, ends the archive there. What is wrong with
// an archive is told by each [Finding] of a [Report].
//
// # Concurrency
//
// The methods of [Archive], [Device] and [Writer] are safe for concurrent use.
// A [Reader] is not. A context that ends stops a walk at the next extent; a
// Read or a WriteAt of the caller's that blocks is waited for, so that no
// goroutine outlives a call.
//
// # Security
//
// Archives are not trusted: no content of one makes this package panic, loop,
// or take memory beyond a small multiple of what the archive itself is long.
// Names out of an archive may be "../../etc/passwd": use [SafeName] to make a
// file name of one.
//
// # Limits
//
// A header has at most 64 MiB ([Options.MaxHeaderSize]), a device 256 TiB, an
// archive opened at random 256 TiB. A Writer takes 254 devices and 256 configs
// of 65535 bytes.
//
// # Durability
//
// A [Writer] syncs nothing. The archive is whole once [Writer.Close] returned
// nil; up to then it ends inside a structure and every reader refuses it.
//
// [The specification] dates from 2012; where it and Proxmox differ, this
// package follows Proxmox.
//
// [The specification]: https://git.proxmox.com/?p=pve-qemu-kvm.git;a=history;f=vma_spec.txt
package vma
