package apitest

import (
	"fmt"
	"go/ast"
	"go/doc"
	"go/doc/comment"
	"regexp"
	"sort"
)

// docLink matches what is meant as a link to a symbol, but not MSR[PR]. It makes
// none where the symbol does not exist, or where a letter or a sign follows the
// bracket.
var docLink = regexp.MustCompile(`\B\[\*?(?:[a-z]+\.)?[A-Z]\w*(?:\.[A-Z]\w*)?\]`)

// BrokenLinks returns what stands in brackets in the comments of the exported
// symbols of the package in dir, as links to symbols do, but makes no link.
func BrokenLinks(dir, importPath string) ([]string, error) {
	p, _, err := load(dir, importPath)
	if err != nil {
		return nil, err
	}
	l := linkChecker{p: p, parser: p.Parser()}
	l.text("package "+p.Name, p.Doc)
	l.values(p.Consts)
	l.values(p.Vars)
	l.funcs("", p.Funcs)
	for _, t := range p.Types {
		l.text(t.Name, t.Doc)
		l.members(t.Name, t.Decl)
		l.values(t.Consts)
		l.values(t.Vars)
		l.funcs("", t.Funcs)
		l.funcs(t.Name+".", t.Methods)
	}
	sort.Strings(l.broken)
	return l.broken, nil
}

type linkChecker struct {
	p      *doc.Package
	parser *comment.Parser
	broken []string
}

func (l *linkChecker) values(vs []*doc.Value) {
	for _, v := range vs {
		l.text(v.Names[0], v.Doc)
		l.members(v.Names[0], v.Decl)
	}
}

func (l *linkChecker) funcs(recv string, fs []*doc.Func) {
	for _, f := range fs {
		l.text(recv+f.Name, f.Doc)
	}
}

// members checks the comments of fields, methods of interfaces, and constants.
func (l *linkChecker) members(name string, decl ast.Node) {
	ast.Inspect(decl, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.Field:
			l.text(name, n.Doc.Text())
			l.text(name, n.Comment.Text())
		case *ast.ValueSpec:
			l.text(name, n.Doc.Text())
			l.text(name, n.Comment.Text())
		}
		return true
	})
}

func (l *linkChecker) text(where, text string) {
	for _, b := range l.parser.Parse(text).Content {
		l.block(where, b)
	}
}

func (l *linkChecker) block(where string, b comment.Block) {
	var words []comment.Text
	switch b := b.(type) {
	case *comment.Paragraph:
		words = b.Text
	case *comment.Heading:
		words = b.Text
	case *comment.List:
		for _, item := range b.Items {
			for _, c := range item.Content {
				l.block(where, c)
			}
		}
	}
	for _, w := range words {
		if plain, ok := w.(comment.Plain); ok {
			for _, m := range docLink.FindAllString(string(plain), -1) {
				l.broken = append(l.broken, fmt.Sprintf("%s: %s", where, m))
			}
		}
	}
}
