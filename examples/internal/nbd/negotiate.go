package nbd

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
)

// A negotiation is what comes before the transmission.
type negotiation struct {
	server     *Server
	c          net.Conn
	noZeroes   bool
	structured bool
	meta       []metaContext // selected by the client
	metaFor    *Export       // the export they were selected for
}

// A metaContext is a kind of block status.
type metaContext struct {
	id   uint32
	name string
}

// run negotiates until the client chooses an export. A client that ends the
// negotiation gives a nil export.
func (n *negotiation) run() (*Export, error) {
	hello := binary.BigEndian.AppendUint64(nil, magicInit)
	hello = binary.BigEndian.AppendUint64(hello, magicOption)
	hello = binary.BigEndian.AppendUint16(hello, flagFixedNewstyle|flagNoZeroes)
	if _, err := n.c.Write(hello); err != nil {
		return nil, err
	}
	var flags [4]byte
	if _, err := io.ReadFull(n.c, flags[:]); err != nil {
		return nil, err
	}
	f := binary.BigEndian.Uint32(flags[:])
	if f&^(flagFixedNewstyle|flagNoZeroes) != 0 {
		return nil, fmt.Errorf("unknown client flags %#x", f)
	}
	n.noZeroes = f&flagNoZeroes != 0
	for {
		e, done, err := n.option()
		if err != nil || done {
			return e, err
		}
	}
}

// option answers one option of the client.
func (n *negotiation) option() (e *Export, done bool, err error) {
	var h [16]byte
	if _, err := io.ReadFull(n.c, h[:]); err != nil {
		return nil, false, err
	}
	if m := binary.BigEndian.Uint64(h[:]); m != magicOption {
		return nil, false, fmt.Errorf("option magic %#x", m)
	}
	opt, size := binary.BigEndian.Uint32(h[8:]), binary.BigEndian.Uint32(h[12:])
	if size > maxOption {
		if _, err := io.CopyN(io.Discard, n.c, int64(size)); err != nil {
			return nil, false, err
		}
		return nil, false, n.reply(opt, repErrTooBig, nil)
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(n.c, data); err != nil {
		return nil, false, err
	}
	switch opt {
	case optExportName:
		e, err = n.exportName(string(data))
		return e, true, err
	case optAbort:
		return nil, true, n.reply(opt, repAck, nil)
	case optList:
		return nil, false, n.list(data)
	case optInfo, optGo:
		e, err = n.info(opt, data)
		return e, e != nil && opt == optGo, err
	case optStructuredReply:
		if len(data) != 0 {
			return nil, false, n.reply(opt, repErrInvalid, nil)
		}
		n.structured = true
		return nil, false, n.reply(opt, repAck, nil)
	case optListMeta, optSetMeta:
		return nil, false, n.metaContexts(opt, data)
	}
	return nil, false, n.reply(opt, repErrUnsup, nil)
}

func (n *negotiation) reply(opt, typ uint32, data []byte) error {
	b := binary.BigEndian.AppendUint64(nil, magicOptReply)
	b = binary.BigEndian.AppendUint32(b, opt)
	b = binary.BigEndian.AppendUint32(b, typ)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	_, err := n.c.Write(append(b, data...))
	return err
}

// exportName is the old way to choose an export: there is no way to refuse
// but to hang up.
func (n *negotiation) exportName(name string) (*Export, error) {
	e := n.server.find(name)
	if e == nil {
		return nil, fmt.Errorf("no export %q", name)
	}
	b := binary.BigEndian.AppendUint64(nil, uint64(e.Disk.Size()))
	b = binary.BigEndian.AppendUint16(b, e.flags())
	if !n.noZeroes {
		b = append(b, make([]byte, 124)...)
	}
	_, err := n.c.Write(b)
	return e, err
}

func (n *negotiation) list(data []byte) error {
	if len(data) != 0 {
		return n.reply(optList, repErrInvalid, nil)
	}
	for _, e := range n.server.Exports {
		b := appendString(nil, e.Name)
		if err := n.reply(optList, repServer, append(b, e.Description...)); err != nil {
			return err
		}
	}
	return n.reply(optList, repAck, nil)
}

// info answers INFO and GO: name, then the items of information wanted.
func (n *negotiation) info(opt uint32, data []byte) (*Export, error) {
	name, rest, ok := cutString(data)
	if !ok || len(rest) < 2 || len(rest) != 2+2*int(binary.BigEndian.Uint16(rest)) {
		return nil, n.reply(opt, repErrInvalid, nil)
	}
	e := n.server.find(name)
	if e == nil {
		return nil, n.reply(opt, repErrUnknown, []byte("no such export"))
	}
	if n.metaFor != nil && n.metaFor != e && opt == optGo {
		n.meta = nil // contexts hold for the export they were selected for
	}
	for rest = rest[2:]; len(rest) > 0; rest = rest[2:] {
		var item []byte
		switch k := binary.BigEndian.Uint16(rest); k {
		case infoName:
			item = append(binary.BigEndian.AppendUint16(nil, k), e.Name...)
		case infoDescription:
			item = append(binary.BigEndian.AppendUint16(nil, k), e.Description...)
		default:
			continue
		}
		if err := n.reply(opt, repInfo, item); err != nil {
			return nil, err
		}
	}
	size := binary.BigEndian.AppendUint16(nil, infoBlockSize)
	size = binary.BigEndian.AppendUint32(size, 1)
	size = binary.BigEndian.AppendUint32(size, 64<<10)
	size = binary.BigEndian.AppendUint32(size, maxPayload)
	export := binary.BigEndian.AppendUint16(nil, infoExport)
	export = binary.BigEndian.AppendUint64(export, uint64(e.Disk.Size()))
	export = binary.BigEndian.AppendUint16(export, e.flags())
	if err := n.reply(opt, repInfo, size); err != nil {
		return nil, err
	}
	if err := n.reply(opt, repInfo, export); err != nil {
		return nil, err
	}
	return e, n.reply(opt, repAck, nil)
}

// metaContexts answers LIST_META_CONTEXT and SET_META_CONTEXT.
func (n *negotiation) metaContexts(opt uint32, data []byte) error {
	name, rest, ok := cutString(data)
	if !ok || len(rest) < 4 || !n.structured {
		return n.reply(opt, repErrInvalid, nil)
	}
	e := n.server.find(name)
	if e == nil {
		return n.reply(opt, repErrUnknown, nil)
	}
	count := binary.BigEndian.Uint32(rest)
	rest = rest[4:]
	var queries []string
	for range count {
		var q string
		if q, rest, ok = cutString(rest); !ok {
			return n.reply(opt, repErrInvalid, nil)
		}
		queries = append(queries, q)
	}
	if len(rest) != 0 {
		return n.reply(opt, repErrInvalid, nil)
	}
	found := e.contexts(queries, opt == optListMeta)
	if opt == optSetMeta {
		n.meta, n.metaFor = found, e
	}
	for _, m := range found {
		b := binary.BigEndian.AppendUint32(nil, m.id)
		if err := n.reply(opt, repMetaContext, append(b, m.name...)); err != nil {
			return err
		}
	}
	return n.reply(opt, repAck, nil)
}

const dirtyPrefix = "qemu:dirty-bitmap:"

// contexts returns the contexts of e that match the queries. In a list, no
// query matches all, and a namespace all in it.
func (e *Export) contexts(queries []string, list bool) []metaContext {
	names := []string{"base:allocation"}
	if e.AllocationDepth {
		names = append(names, "qemu:allocation-depth")
	}
	for _, b := range e.Bitmaps {
		names = append(names, dirtyPrefix+b.Name)
	}
	var out []metaContext
	for i, name := range names {
		match := list && len(queries) == 0
		for _, q := range queries {
			match = match || q == name || list && strings.HasSuffix(q, ":") && strings.HasPrefix(name, q)
		}
		if match && len(out) < maxMeta {
			out = append(out, metaContext{uint32(i + 1), name})
		}
	}
	return out
}

// appendString appends a string with its length, 32 bits, before it.
func appendString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

// cutString takes such a string from the front of b.
func cutString(b []byte) (s string, rest []byte, ok bool) {
	if len(b) < 4 {
		return "", nil, false
	}
	n := binary.BigEndian.Uint32(b)
	if uint64(n) > uint64(len(b)-4) {
		return "", nil, false
	}
	return string(b[4 : 4+n]), b[4+n:], true
}
