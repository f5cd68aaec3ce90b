package libxlfmt

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"strings"
	"testing"
)

// TestSeverities: the table holds what the comment of each code says.
func TestSeverities(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "finding.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	ast.Inspect(f, func(node ast.Node) bool {
		spec, ok := node.(*ast.ValueSpec)
		if !ok || !strings.HasPrefix(spec.Names[0].Name, "Code") {
			return true
		}
		n++
		value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		if spec.Comment == nil {
			t.Errorf("%s: no comment", spec.Names[0])
			return true
		}
		letters := (spec.Comment.List[0].Text + "      ")[len("// "):][:4]
		var want severity
		for i, s := range [...]severity{badStrict, badXen, badLenient, fatal} {
			switch c := letters[i]; c {
			case "SXL!"[i]:
				want |= s
			case ' ':
			default:
				t.Errorf("%s: %q in the comment", spec.Names[0], c)
			}
		}
		if got, ok := severities[Code(value)]; !ok || got != want {
			t.Errorf("%s: %04b, the comment says %q", spec.Names[0], got, letters)
		}
		return true
	})
	if n != len(severities) {
		t.Errorf("%d codes, %d in the table", n, len(severities))
	}
}
