// Package migschema reads and writes QEMU migration streams: as ASN.1 BER,
// after docs/specs/migration.schema as proposed for QEMU in 2014, and in the
// classic layout that QEMU sends.
//
// # The BER stream
//
//	QemuFile                         7f cd c5 51, "Q" last and bits off
//	├ version 3
//	└ top: sections
//	    SecFull                      a device, or the start of RAM
//	    ├ name, section id, instance, version
//	    ├ contents: a RAM block list, typed state, or an opaque blob
//	    └ end mark
//	    SecMin                       more of a section: pages of RAM
//	    ├ section id
//	    ├ RAM blocks: name, pages (zero, full, XBZRLE, hook)
//	    └ end mark
//
// A [Decoder] reads it event by event, down to one page, from any io.Reader,
// and a [Scanner] element by element, with offsets and tags. An [Encoder]
// writes it part by part. [Unmarshal] and [Marshal] do the same for values as
// a whole, [ParseJSON] and [AppendJSON] for their JSON form.
//
// # The classic stream
//
//	QEVM, version 3
//	07 configuration             machine type, capabilities, page size, UUID
//	01 start, 02 part, 03 end    a section in parts: RAM, other iterators
//	04 full                      a device
//	08 command
//	00 EOF
//	06 VMDESC                    JSON that describes the devices
//
// A [Reader] reads it record by record, down to one page, and a [Writer]
// writes what a Reader gives, octet for octet the same. The state of a device
// carries no length: where it ends is told by the VMDESC behind all of it, or
// by footers, or is guessed ([Split]).
//
// # From one to the other
//
// [ToBER] and [ToClassic] convert without loss, or say what would be lost.
// What the schema has no place for (configuration, commands, VMDESC) becomes a
// section with a negative id, which any BER tool reads. Devices become blobs,
// or typed state where the VMDESC describes them.
//
// What the schema cannot say is an error that names it, unless an option of
// [ConvertOptions] bears the change, which the [Report] then names:
//
//	a compressed page                     a full one, by Decompress
//	a zero page with a fill byte          a full one, by Lossy
//	a flush mark                          left out, by Lossy
//	a section without an end              its last part becomes that, by Lossy
//	a whole section that goes on          one in parts, by Lossy
//	names that are no UTF-8 or too long   an error
//	pages of another size                 by PageSize
//
// [ReadRAM] applies the pages of a stream to an image of guest memory,
// [ReadStats] counts what a stream is made of, [Dump] tells all that is in it,
// with the names of the fields in the state of devices.
//
// # What is read, what is written
//
//	BER                           read   written
//	definite lengths              yes    DER; what is known when it begins
//	indefinite lengths            yes    Streamed: file, sections, blocks; CER: all
//	strings in segments           yes    CER, and blobs of unknown size
//	INTEGERs of any size          yes    yes
//	DER                           can be demanded   yes
//	CER                           yes    yes
//	version other than 3          option option
//	pages of another size         option option
//	names over 255 characters     option no
//	unknown elements              option no
//
//	classic                       read   written
//	RAM: zero, full, XBZRLE       yes    yes
//	RAM: zlib, hook, flush        yes    yes
//	block page sizes, addresses   yes    yes
//	target page size              yes    yes
//	devices with a VMDESC         exact  yes
//	devices with footers only     found  yes
//	devices with neither          guess  yes
//	other iterators               found  yes
//	commands                      yes    yes
//	postcopy                      yes    yes
//	multifd: pages, in channels   no     no
//	mapped RAM                    no     no
//
// What is not read is told by an error that is [errors.ErrUnsupported]. With
// multifd QEMU sends pages over connections of their own, each of which begins
// with 11 22 33 44: [ErrFormat] as well. The first connection is a classic
// stream without these pages. [ReadStats], [Dump] and a [Reader] read it; a
// [RAM] refuses it at the flush marks that QEMU sends from 8.0 on. Streams of
// older versions have no such mark: there [RAM.Extents] tells which pages were
// not sent. Mapped RAM (QEMU 9.0), where pages lie at offsets of the file, is
// refused at the configuration that names it. Postcopy is read, recorded from
// its connection too: the package with the devices (command 7) is no record of
// its own, and pages come after it. It cannot be loaded again from a file, for
// QEMU waits for answers.
//
// By default what is read must obey X.690 and the schema to the letter; each
// breach that can be borne has a switch of its own in [Lenient].
//
// # Concurrency
//
// Decoders and encoders are not safe for concurrent use. Functions are.
//
// # Security
//
// No input makes this package panic, loop, or take memory on the word of a
// length. A stream of 1 MiB costs at most 64 MiB and a second. Decoders of
// streams keep one window of 256 KiB, one string that comes in segments
// ([DecoderOptions.MaxString]), and the list of blocks; under validation, also
// the section ids and about a bit a page. A classic [Reader] also holds what
// lies between the first device and the end, unless it has the VMDESC. Whole
// values cost memory in proportion to the input.
//
// # Limits
//
// [DecoderOptions] and [ReaderOptions] have them: depth 128, strings 1 MiB,
// INTEGERs 64 KiB, 65536 blocks of RAM, 65536 sections, 256 MiB of device
// state ([ConvertOptions] too), and [RAMOptions] an image of 16 TiB. A VMDESC
// has at most 262144 objects, its structs nest 64 deep.
package migschema
