package migschema

import (
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	maxMachineName = 4096 // octets
	// A page has room for the flags below its size, and is no larger than what
	// a window should hold.
	minPageBits, maxPageBits = 10, 20
)

// The subsections of a configuration.
const (
	configCapabilities   = "configuration/capabilities"
	configTargetPageBits = "configuration/target-page-bits"
	configUUID           = "configuration/uuid"

	capabilityIgnoreShared = "x-ignore-shared"
	capabilityMappedRAM    = "mapped-ram" // QEMU 9.0: pages at offsets of the file
)

// configuration reads a configuration, after its type. It is wanted as a
// whole, so that it can be passed on as it is.
func (r *Reader) configuration() error {
	c := configReader{r: r}
	config, err := c.read()
	if err != nil {
		return err
	}
	r.rec.Config = config
	r.rec.Data = r.src.take(c.n)
	for _, name := range config.Capabilities {
		if name == capabilityMappedRAM {
			return &FormatError{r.rec.Offset, configCapabilities, CodeRecord, fmt.Errorf("%s: %w", name, errors.ErrUnsupported)}
		}
		r.addresses = r.addresses || name == capabilityIgnoreShared
	}
	if b := config.TargetPageBits; b != 0 && r.pageSize == 0 {
		r.pageSize = 1 << b
	}
	return r.found(RecordConfiguration, (*Reader).record)
}

// parseConfiguration decodes the data of a configuration record, all of it.
func parseConfiguration(data []byte) (*Configuration, error) {
	// The octet of EOF stands for the record that follows.
	r := newReader(bytesSource(append(data[:len(data):len(data)], recEOF)), nil)
	c := configReader{r: r}
	config, err := c.read()
	if err == nil && c.n != len(data) {
		err = &FormatError{int64(c.n), "configuration", CodeTrailingData, nil}
	}
	return config, err
}

// A configReader looks through the window of r, without consuming anything.
type configReader struct {
	r *Reader
	n int // octets seen
}

// next returns the next n octets.
func (c *configReader) next(field string, n int) ([]byte, error) {
	if !c.r.src.has(c.n + n) {
		c.r.src.pos += min(c.n, len(c.r.src.window()))
		return nil, c.r.cut(field)
	}
	b := c.r.src.window()[c.n : c.n+n]
	c.n += n
	return b, nil
}

func (c *configReader) uint32(field string) (uint32, error) {
	b, err := c.next(field, 4)
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint32(b), nil
}

func (c *configReader) name(field string) (string, error) {
	n, err := c.next(field, 1)
	if err != nil {
		return "", err
	}
	b, err := c.next(field, int(n[0]))
	return string(b), err
}

func (c *configReader) fail(field string, code Code, err error) error {
	return &FormatError{c.r.src.offset() + int64(c.n), field, code, err}
}

func (c *configReader) read() (*Configuration, error) {
	config := new(Configuration)
	size, err := c.uint32("configuration.length")
	if err != nil {
		return nil, err
	}
	if size > maxMachineName {
		return nil, c.fail("configuration.length", CodeLimit, nil)
	}
	machine, err := c.next("configuration.machine", int(size))
	if err != nil {
		return nil, err
	}
	config.Machine = string(machine)
	for {
		// After this record there is at least the octet of EOF.
		b, err := c.next("record", 1)
		if err != nil {
			return nil, err
		}
		if b[0] != recSubsection {
			c.n--
			return config, nil
		}
		if err := c.subsection(config); err != nil {
			return nil, err
		}
	}
}

func (c *configReader) subsection(config *Configuration) error {
	name, err := c.name("configuration.subsection")
	if err != nil {
		return err
	}
	if _, err := c.uint32(name + ".version"); err != nil {
		return err
	}
	switch name {
	case configCapabilities:
		return c.capabilities(config)
	case configTargetPageBits:
		config.TargetPageBits, err = c.uint32(name)
		if b := config.TargetPageBits; err == nil && (b < minPageBits || b > maxPageBits) {
			return c.fail(name, CodeRange, fmt.Errorf("%d", b))
		}
		return err
	case configUUID:
		b, err := c.next(name, len(config.UUID))
		config.HasUUID = copy(config.UUID[:], b) > 0
		return err
	}
	return c.fail("configuration", CodeRecord, fmt.Errorf("subsection %q: %w", name, errors.ErrUnsupported))
}

// maxCapabilities bounds a list of which QEMU has some twenty.
const maxCapabilities = 1024

func (c *configReader) capabilities(config *Configuration) error {
	n, err := c.uint32(configCapabilities)
	if err != nil {
		return err
	}
	if n > maxCapabilities {
		return c.fail(configCapabilities, CodeLimit, nil)
	}
	for range n {
		name, err := c.name(configCapabilities)
		if err != nil {
			return err
		}
		config.Capabilities = append(config.Capabilities, name)
	}
	return nil
}
