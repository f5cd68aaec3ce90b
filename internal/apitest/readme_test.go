package apitest_test

import (
	"os"
	"path/filepath"
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
