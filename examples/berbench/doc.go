// Package berbench times migschema beside encoding/asn1 and go-asn1-ber, on
// the same stream of pages. It is a module of its own, so that no importer of
// the library sees what it compares with:
//
//	go -C examples/berbench test -bench . -benchmem
package berbench
