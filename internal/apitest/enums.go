package apitest

import (
	"go/ast"
	"go/doc"
	"slices"
	"sort"
)

// Nameless returns the exported types of the package in dir that have constants
// of their own but no method String, so that they print as numbers.
func Nameless(dir, importPath string) ([]string, error) {
	p, _, err := load(dir, importPath)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, t := range p.Types {
		spec := t.Decl.Specs[0].(*ast.TypeSpec)
		base, ok := spec.Type.(*ast.Ident)
		if len(t.Consts) == 0 || !ok || base.Name == "string" {
			continue
		}
		if !slices.ContainsFunc(t.Methods, func(f *doc.Func) bool { return f.Name == "String" }) {
			out = append(out, t.Name)
		}
	}
	sort.Strings(out)
	return out, nil
}
