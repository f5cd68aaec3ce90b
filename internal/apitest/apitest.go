// Package apitest renders the exported API of a package as text, one line a
// symbol, so that every change of it shows in review. Its tests also hold the
// rules that keep the tree portable.
package apitest

import (
	"bytes"
	"go/ast"
	"go/doc"
	"go/parser"
	"go/printer"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

// API returns the exported API of the package in dir, for all systems, sorted
// by symbol.
func API(dir, importPath string) (string, error) {
	p, fset, err := load(dir, importPath)
	if err != nil {
		return "", err
	}
	var lines []string
	add := func(decl ast.Node) { lines = append(lines, oneLine(fset, decl)...) }
	values := func(vs []*doc.Value) {
		for _, v := range vs {
			for _, n := range v.Names {
				if ast.IsExported(n) {
					lines = append(lines, v.Decl.Tok.String()+" "+n)
				}
			}
		}
	}
	funcs := func(fs []*doc.Func) {
		for _, f := range fs {
			f.Decl.Body, f.Decl.Doc = nil, nil
			add(f.Decl)
		}
	}
	values(p.Consts)
	values(p.Vars)
	funcs(p.Funcs)
	for _, t := range p.Types {
		values(t.Consts)
		values(t.Vars)
		funcs(t.Funcs)
		funcs(t.Methods)
		for _, s := range t.Decl.Specs {
			if ts, ok := s.(*ast.TypeSpec); ok && ts.Name.Name == t.Name {
				ts.Doc, ts.Comment = nil, nil
				lines = append(lines, typeLines(fset, ts)...)
			}
		}
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n") + "\n", nil
}

// Undocumented returns the exported symbols of the package in dir that have
// no comment.
func Undocumented(dir, importPath string) ([]string, error) {
	p, _, err := load(dir, importPath)
	if err != nil {
		return nil, err
	}
	var out []string
	if strings.TrimSpace(p.Doc) == "" {
		out = append(out, "package "+p.Name)
	}
	funcs := func(recv string, fs []*doc.Func) {
		for _, f := range fs {
			if strings.TrimSpace(f.Doc) == "" {
				out = append(out, recv+f.Name)
			}
		}
	}
	values := func(vs []*doc.Value) {
		for _, v := range vs {
			if strings.TrimSpace(v.Doc) != "" {
				continue
			}
			for _, s := range v.Decl.Specs {
				vs := s.(*ast.ValueSpec)
				if vs.Doc == nil && vs.Comment == nil && ast.IsExported(vs.Names[0].Name) {
					out = append(out, vs.Names[0].Name)
				}
			}
		}
	}
	values(p.Consts)
	values(p.Vars)
	funcs("", p.Funcs)
	for _, t := range p.Types {
		if strings.TrimSpace(t.Doc) == "" {
			out = append(out, t.Name)
		}
		values(t.Consts)
		values(t.Vars)
		funcs("", t.Funcs)
		funcs(t.Name+".", t.Methods)
	}
	sort.Strings(out)
	return out, nil
}

// Packages returns the folders below root, relative to it, that hold a
// package which others can import.
func Packages(root string) ([]string, error) {
	var out []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		name := d.Name()
		if path != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "internal" || name == "examples") {
			return filepath.SkipDir
		}
		if m, _ := filepath.Glob(filepath.Join(path, "*.go")); len(m) > 0 {
			rel, err := filepath.Rel(root, path)
			out = append(out, filepath.ToSlash(rel))
			return err
		}
		return nil
	})
	return out, err
}

func load(dir, importPath string) (*doc.Package, *token.FileSet, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, err
	}
	fset := token.NewFileSet()
	var files []*ast.File
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, filepath.Join(dir, e.Name()), nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, nil, err
		}
		files = append(files, f)
	}
	p, err := doc.NewFromFiles(fset, files, importPath)
	return p, fset, err
}

// typeLines gives a struct or an interface one line for itself and one for
// each exported member, any other type one line.
func typeLines(fset *token.FileSet, ts *ast.TypeSpec) []string {
	members := func(kind string, fields *ast.FieldList) []string {
		lines := []string{"type " + ts.Name.Name + " " + kind}
		for _, f := range fields.List {
			// The printer takes a field's type, but no field.
			var words []string
			for _, n := range f.Names {
				words = append(words, n.Name)
			}
			words = append(words, oneLine(fset, f.Type)...)
			lines = append(lines, "type "+ts.Name.Name+" "+kind+", "+strings.Join(words, " "))
		}
		return lines
	}
	if !ts.Assign.IsValid() {
		switch t := ts.Type.(type) {
		case *ast.StructType:
			return members("struct", t.Fields)
		case *ast.InterfaceType:
			return members("interface", t.Methods)
		}
	}
	return []string{"type " + strings.Join(oneLine(fset, ts), " ")}
}

func oneLine(fset *token.FileSet, n ast.Node) []string {
	var b bytes.Buffer
	if err := printer.Fprint(&b, fset, n); err != nil {
		return []string{err.Error()}
	}
	return []string{strings.Join(strings.Fields(b.String()), " ")}
}
