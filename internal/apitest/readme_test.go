package apitest_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestReadmeExample holds the README's example against the one that is
// compiled and run.
func TestReadmeExample(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	code, err := os.ReadFile(filepath.Join(root, "qcow2", "example_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(readme), "```go\n")
	example, _, ok := strings.Cut(rest, "```")
	if !ok || example == "" {
		t.Fatal("README.md has no example")
	}
	indented := "\t" + strings.ReplaceAll(strings.TrimSuffix(example, "\n"), "\n", "\n\t") + "\n"
	if !strings.Contains(string(code), indented) {
		t.Error("the example of README.md is not in qcow2/example_test.go")
	}
}

var pointer = regexp.MustCompile("`([a-z0-9]+)\\.([A-Z]\\w*)`")

// TestReadmePointers: the functions and examples that the README sends to are
// there.
func TestReadmePointers(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	found := pointer.FindAllStringSubmatch(string(readme), -1)
	if len(found) == 0 {
		t.Fatal("README.md points to nothing")
	}
	for _, m := range found {
		if m[1] == "errors" {
			continue // the standard library's
		}
		files, err := filepath.Glob(filepath.Join(root, m[1], "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		if !declares(t, files, m[2]) {
			t.Errorf("%s has no func %s", m[1], m[2])
		}
	}
}

// declares reports whether one of the files has a function of that name.
func declares(t *testing.T, files []string, name string) bool {
	t.Helper()
	for _, f := range files {
		src, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(src), "\nfunc "+name+"(") {
			return true
		}
	}
	return false
}
