package vma

import (
	"fmt"
	"hash/fnv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// isSafeName reports whether a name from an archive names a file in the
// directory that it is joined to, and nothing else.
func isSafeName(name string) bool {
	if name == "" || name == "." || name == ".." || !utf8.ValidString(name) {
		return false
	}
	return !strings.ContainsFunc(name, func(r rune) bool {
		return r == '/' || r == '\\' || !unicode.IsPrint(r)
	})
}

// maxFileName is how many bytes of a name from an archive go into a file
// name; file systems take 255.
const maxFileName = 200

// SafeName returns a file name for a name out of an archive. It has no path
// separator, is not "." or "..", is valid UTF-8 and printable, has at most
// 200 bytes, and can be a file's name on Windows too. Names that Proxmox
// writes are returned as they are; what is not allowed becomes %XX for each of
// its bytes. Different names can have the same file name.
func SafeName(name string) string {
	var b strings.Builder
	for len(name) > 0 {
		r, n := utf8.DecodeRuneInString(name)
		if r == utf8.RuneError && n == 1 || !unicode.IsPrint(r) || strings.ContainsRune(`/\:*?"<>|`, r) {
			escape(&b, name[:n])
		} else {
			b.WriteString(name[:n])
		}
		name = name[n:]
	}
	s := b.String()
	switch {
	case s == "":
		return "%"
	case strings.HasSuffix(s, "."), strings.HasSuffix(s, " "):
		s = s[:len(s)-1] + fmt.Sprintf("%%%02X", s[len(s)-1])
	}
	if isWindowsDevice(s) {
		s = fmt.Sprintf("%%%02X", s[0]) + s[1:]
	}
	return shorten(s)
}

func escape(b *strings.Builder, s string) {
	for i := range len(s) {
		fmt.Fprintf(b, "%%%02X", s[i])
	}
}

// isWindowsDevice reports whether Windows takes a file name for a device,
// with any extension.
func isWindowsDevice(name string) bool {
	base, _, _ := strings.Cut(strings.ToUpper(name), ".")
	base = strings.TrimRight(base, " ")
	switch base {
	case "CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$":
		return true
	}
	digit, ok := strings.CutPrefix(base, "COM")
	if !ok {
		digit, ok = strings.CutPrefix(base, "LPT")
	}
	return ok && utf8.RuneCountInString(digit) == 1 && strings.Contains("0123456789¹²³", digit)
}

// shorten cuts s to maxFileName bytes, a hash of the whole at its end.
func shorten(s string) string {
	if len(s) <= maxFileName {
		return s
	}
	h := fnv.New32a()
	h.Write([]byte(s))
	cut := maxFileName - 9
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return fmt.Sprintf("%s~%08x", s[:cut], h.Sum32())
}

// A nameSet hands out file names that differ even where case does not count.
type nameSet map[string]bool

// unique returns name, or name~2, name~3 and so on where it is taken.
func (s nameSet) unique(name string) string {
	try := name
	for i := 2; s[strings.ToLower(try)]; i++ {
		try = fmt.Sprintf("%s~%d", name, i)
	}
	s[strings.ToLower(try)] = true
	return try
}

// fileNames returns the file names of the configs and devices of h, all
// different: configs by their names, devices as Proxmox's tool names what it
// extracts, disk-NAME.raw and vmstate.bin.
func fileNames(h *Header) (configs, devices []string) {
	set := make(nameSet)
	for _, c := range h.Configs {
		configs = append(configs, set.unique(SafeName(c.Name)))
	}
	vm, _ := h.VMState()
	for _, d := range h.Devices {
		name := "disk-" + SafeName(d.Name) + ".raw"
		if d.ID == vm.ID {
			name = "vmstate.bin"
		}
		devices = append(devices, set.unique(name))
	}
	return configs, devices
}
