// Package luks reads, makes and changes LUKS version 1 headers, and encrypts
// and decrypts sectors the ways that they name. It knows nothing of the disk
// format around it.
//
// A volume has one random key. Up to eight slots hold that key, each under a
// passphrase: the key is split into stripes (anti-forensic splitting), the
// stripes encrypted under a key that PBKDF2 derives from the passphrase. A
// digest in the header tells a right key from a wrong one.
//
//	0        +------------------------+
//	         | header, 592 bytes      |
//	4096     +------------------------+
//	         | key material of slot 0 |
//	         +------------------------+
//	         | ...          of slot 7 |
//	payload  +------------------------+
//
// Ciphers: aes, serpent, twofish (128 to 256 bits), cast5 (128 bits).
// Chaining: xts, cbc, ctr, ecb. Initialization vectors: plain, plain64,
// essiv. Hashes: md5, sha1, sha224, sha256, sha384, sha512, ripemd160. That is
// what qemu 7.2 offers.
//
// Headers are not trusted: their sizes and offsets are checked when they are
// read, the iterations that they ask for are limited, and derivation stops
// when its context ends.
package luks
