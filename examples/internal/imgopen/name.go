package imgopen

import (
	"maps"
	"path/filepath"
	"strings"
)

// parseName returns the options that a name on the command line stands for.
func parseName(name string, o *Options) (options, error) {
	var given options
	var err error
	if o.ImageOpts {
		given, err = parseList(name)
	} else {
		given, err = parseFilename(name)
	}
	if err != nil {
		return given, err
	}
	if err := given.with(o.With); err != nil {
		return given, err
	}
	if o.Format != "" {
		if d, ok := given.value["driver"]; ok && d != o.Format {
			return given, messagef("Driver specified twice")
		}
		given.value["driver"] = o.Format
	}
	return given, nil
}

// with adds a list of options, which come before what is there, but for the
// file that is named.
func (o options) with(list string) error {
	more, err := parseList(list)
	if err != nil {
		return err
	}
	path, named := more.value["file.filename"]
	if was, ok := o.value["file.filename"]; ok && named && was != path {
		return messagef("Can't specify 'file' and 'filename' options at the same time")
	}
	maps.Copy(o.value, more.value)
	return nil
}

// parseFilename returns the options that a file name stands for: a path, one
// with a protocol, or an object in JSON.
func parseFilename(name string) (options, error) {
	if text, ok := strings.CutPrefix(name, "json:"); ok {
		return parseJSON(name, text)
	}
	o := newOptions(name)
	proto, rest := splitProtocol(name)
	switch proto {
	case "", "file":
		o.value["file.filename"] = rest
	case "host_device", "host_cdrom":
		o.value["file.driver"] = "host_device"
		o.value["file.filename"] = rest
	case "vma":
		device, archive, ok := strings.Cut(rest, ":")
		if !ok {
			return o, messagef("'%s' is not vma:DEVICE:ARCHIVE", name)
		}
		o.value["driver"], o.value["device"], o.value["file.filename"] = "vma", device, archive
	default:
		if driver, _, _ := strings.Cut(proto, "+"); driver == "fat" || Foreign(driver) {
			return o, messagef("Protocol '%s' is not supported", proto)
		}
		return o, messagef("Unknown protocol '%s'", proto)
	}
	if rest == "" {
		return o, messagef("The 'file' block driver requires a file name")
	}
	return o, nil
}

// Path returns the path of a file that is to be made: a name may begin with
// "file:".
func Path(name string) (string, error) {
	if proto, _ := splitProtocol(name); proto == "json" {
		return "", messagef("Unknown protocol 'json'")
	}
	o, err := parseFilename(name)
	if err != nil {
		return "", err
	}
	path, ok := o.value["file.filename"]
	if !ok || o.value["driver"] != "" {
		return "", messagef("'%s' is not the name of a file", name)
	}
	return path, nil
}

// splitProtocol takes a protocol such as "file:" off a name. What has a slash
// before the colon is a path.
func splitProtocol(name string) (proto, rest string) {
	i := strings.IndexAny(name, ":/")
	if i < 0 || name[i] != ':' {
		return "", name
	}
	return name[:i], name[i+1:]
}

// Resolve returns the path of a file that an image names, as QEMU's tools look
// for it: relative to the image, unless it is absolute or has a protocol.
func Resolve(image, name string) string {
	if proto, _ := splitProtocol(name); proto != "" || name == "" {
		return name
	}
	return resolvePath(image, name)
}

// resolvePath is Resolve for what is a path whatever it looks like.
func resolvePath(image, name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	i := strings.LastIndexByte(image, '/')
	return image[:i+1] + name
}
