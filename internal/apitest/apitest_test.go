package apitest_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/internal/apitest"
	"github.com/virtfmt/virtfmt/internal/golden"
)

const root = "../.."

// TestAPI shows every exported change as a change of testdata/NAME.txt.
func TestAPI(t *testing.T) {
	for _, dir := range packages(t) {
		t.Run(dir, func(t *testing.T) {
			got, err := apitest.API(filepath.Join(root, dir), "github.com/virtfmt/virtfmt/"+dir)
			if err != nil {
				t.Fatal(err)
			}
			golden.Text(t, dir+".txt", got)
		})
	}
}

func TestEveryExportedNameIsDocumented(t *testing.T) {
	for _, dir := range packages(t) {
		missing, err := apitest.Undocumented(filepath.Join(root, dir), "github.com/virtfmt/virtfmt/"+dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range missing {
			t.Errorf("%s: %s has no comment", dir, m)
		}
	}
}

func TestLinksInComments(t *testing.T) {
	for _, dir := range packages(t) {
		broken, err := apitest.BrokenLinks(filepath.Join(root, dir), "github.com/virtfmt/virtfmt/"+dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range broken {
			t.Errorf("%s: %s makes no link", dir, b)
		}
	}
}

// TestEnumsPrint: a constant that a user prints says what it is.
func TestEnumsPrint(t *testing.T) {
	for _, dir := range append(packages(t), "internal/block") {
		nameless, err := apitest.Nameless(filepath.Join(root, dir), "github.com/virtfmt/virtfmt/"+dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range nameless {
			t.Errorf("%s: %s has no method String", dir, n)
		}
	}
}

var (
	unsafeImport  = regexp.MustCompile(`(?m)^\s*(import )?"unsafe"$`)
	unsafeFile    = regexp.MustCompile(`_unsafe(_[a-z]+)?\.go$`)
	syscallImport = regexp.MustCompile(`(?m)^\s*(import )?"(syscall|golang.org/x/sys/.*)"$`)
	syscallFile   = regexp.MustCompile(`_(linux|unix)\.go$`)
	codecImport   = regexp.MustCompile(`"github.com/virtfmt/virtfmt/(qcow2|qed|vma|libxlfmt|migschema|ivshmem|acpihotplug|spapr)"`)
)

// TestImports holds the direction of dependencies: no format imports another,
// internal imports none, unsafe and system calls stay in files named for them.
func TestImports(t *testing.T) {
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		rel = filepath.ToSlash(rel)
		if d.IsDir() && (rel == "examples" || d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && rel != ".") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(rel, ".go") || strings.HasSuffix(rel, "_test.go") {
			return nil
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		src = bytes.ReplaceAll(src, []byte("\r"), nil)
		if unsafeImport.Match(src) && !(strings.HasPrefix(rel, "internal/") && unsafeFile.MatchString(rel)) {
			t.Errorf("%s imports unsafe: only internal/**/*_unsafe.go and *_unsafe_GOOS.go may", rel)
		}
		if syscallImport.Match(src) && !syscallFile.MatchString(rel) {
			t.Errorf("%s makes system calls: only *_linux.go and *_unix.go may", rel)
		}
		if m := codecImport.Find(src); m != nil {
			t.Errorf("%s imports the format %s", rel, m)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func packages(t *testing.T) []string {
	t.Helper()
	dirs, err := apitest.Packages(root)
	if err != nil {
		t.Fatal(err)
	}
	return dirs
}
