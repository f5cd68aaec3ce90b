package vma_test

import (
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/virtfmt/virtfmt/vma"
)

func TestSafeName(t *testing.T) {
	for name, want := range map[string]string{
		"qemu-server.conf": "qemu-server.conf",
		"drive-scsi0":      "drive-scsi0",
		"größe.conf":       "größe.conf",
		"a b":              "a b",
		"":                 "%",
		".":                "%2E",
		"..":               ".%2E",
		"../../etc/passwd": "..%2F..%2Fetc%2Fpasswd",
		"/etc/passwd":      "%2Fetc%2Fpasswd",
		`..\x`:             "..%5Cx",
		"C:x":              "C%3Ax",
		"a\nb":             "a%0Ab",
		"a\x00b":           "a%00b",
		"a\xffb":           "a%FFb",
		"a\u202eb":         "a%E2%80%AEb",
		"dot.":             "dot%2E",
		"space ":           "space%20",
		"nul":              "%6Eul",
		"COM1.txt":         "%43OM1.txt",
		"com10":            "com10",
		"console":          "console",
	} {
		if got := vma.SafeName(name); got != want {
			t.Errorf("%q becomes %q, want %q", name, got, want)
		}
	}
	long := strings.Repeat("ä", 500)
	a, b := vma.SafeName(long+"a"), vma.SafeName(long+"b")
	if len(a) > 200 || !utf8.ValidString(a) || a == b {
		t.Errorf("a long name becomes %q and %q", a, b)
	}
}

// FuzzSafeName tests that no name leads out of a directory.
func FuzzSafeName(f *testing.F) {
	for _, s := range []string{"", "..", "a/../..", `\\?\C:\x`, "CON", "lpt¹.x", "a\x00", strings.Repeat("\xf0\x9f\x98\x80", 99)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		s := vma.SafeName(name)
		if s == "" || len(s) > 200 || !filepath.IsLocal(s) || strings.ContainsAny(s, "/\\:\x00") || s == "." || s == ".." || !utf8.ValidString(s) {
			t.Errorf("%q becomes %q", name, s)
		}
		if again := vma.SafeName(s); again != s {
			t.Errorf("%q becomes %q, then %q", name, s, again)
		}
	})
}
