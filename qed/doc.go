// Package qed reads, writes, creates, checks and repairs disk images in the
// QED format, the QEMU Enhanced Disk format of 2010.
//
//	cluster 0            header, and the backing file's name
//	cluster header_size  L1 table: table_size clusters of offsets of L2 tables
//	...                  L2 tables, each table_size clusters of offsets of data
//	...                  data clusters
//
// An offset of the disk is an index into the L1 table, one into an L2 table
// and a place in a data cluster. All numbers are little-endian.
//
// # Capabilities
//
//	feature                         read  write  create  check
//	backing file                    yes   yes    yes     -
//	raw backing file (no-probe)     yes   yes    yes     -
//	need-check bit                  yes   yes    -       yes
//	zero clusters                   yes   yes    -       yes
//	clusters of 4 KiB to 64 MiB     yes   yes    yes     yes
//	tables of 1 to 16 clusters      yes   yes    yes     yes
//	header of more than 1 cluster   yes   yes    no      yes
//	growing a disk                  -     yes    -       -
//	commit, rebase, safe and unsafe -     yes    -       -
//
// The format has no snapshots, no compression, no encryption, no way to free
// a cluster and none to shrink a disk.
//
// # Durability
//
// [Image.Sync] makes durable what was written before it: after a power cut the
// image opens, checks without a corruption, and reads as it did. What was
// written later reads, sector by sector of 512 bytes, as before or after it.
// Clusters may leak. A write-back goes in stages, each durable before the next
// begins; stages with nothing to write are skipped:
//
//	stage  what becomes durable
//	0      the need-check bit, before the first new cluster of an image without a backing file
//	1      guest data, new L2 tables
//	3      entries of L2 tables that the file already had, and of the L1 table
//	-      the need-check bit clear again, when the image is closed
//
// New clusters come from the end of the file and are never used twice, so that
// nothing durable ever points to a cluster whose content is not. The header
// changes by a write of one sector. If a write-back fails the image becomes
// read-only, and every later Sync fails.
//
// # Concurrency
//
// Methods of Image are safe for concurrent use. Concurrent WriteAt calls must
// not overlap. Reads share a lock that is not held over I/O; writers to
// different clusters do not wait for each other's data.
//
// # Security
//
// No image makes this package panic, loop without end, or take memory in
// proportion to a size that it merely claims. Nothing is opened by a name in an
// image but through what the caller granted: [Options.OpenBacking], or for
// [OpenFile] [Options.Root]. A format is never guessed. Nothing is written to the
// header or the L1 table because an entry points there. That two entries share
// a cluster is not noticed on writing, nor is it by QEMU: to know, all tables
// would have to be read first, as [Image.Check] does, which finds and mends it.
// No entry, whoever wrote it, leads out of the file. Check an image of unknown
// origin before it is written to.
//
// # Limits
//
//	file                        2^63-1 bytes
//	disk                        TABLE_NOFFSETS² clusters
//	backing file name           1023 bytes
//	memory for tables           Options.CacheSize, 32 MiB by default
//	memory for a check          one bit for each cluster in use, at least 256 bytes for 2048 neighbours
package qed
