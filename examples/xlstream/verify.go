package main

import (
	"context"
	"fmt"

	"github.com/virtfmt/virtfmt/libxlfmt"
)

// A verdict is the result of verify, in JSON.
type verdict struct {
	OK       bool               `json:"ok"`
	Profile  string             `json:"profile"`
	End      string             `json:"end"`
	Records  int64              `json:"records"`
	Length   int64              `json:"length"`
	Trailing int64              `json:"trailing"`
	Bad      int64              `json:"bad"`
	Total    int64              `json:"total"`
	Findings []libxlfmt.Finding `json:"findings"`
}

func (p *program) verify(args []string) error {
	p.flags.Var(&p.profile, "profile", "what to hold the stream to: `strict`, xen or lenient")
	most := p.flags.Int("max", 0, "keep `N` findings (default 1000)")
	args, err := p.parse(args, 1, 1)
	if err != nil {
		return err
	}
	src, done, err := p.open(args[0])
	if err != nil {
		return err
	}
	defer done()
	res, err := libxlfmt.Verify(context.Background(), src, &libxlfmt.VerifyOptions{
		Options: libxlfmt.Options{Profile: p.profile.Profile}, MaxFindings: *most,
	})
	if err != nil {
		return err
	}
	if err := p.printVerdict(res); err != nil {
		return err
	}
	if !res.OK() {
		return errBad
	}
	return nil
}

func (p *program) printVerdict(r *libxlfmt.VerifyResult) error {
	if p.json {
		v := verdict{
			OK: r.OK(), Profile: p.profile.String(), End: r.End.String(), Records: r.Records, Length: r.Length,
			Trailing: r.Trailing, Bad: r.Bad, Total: r.Total, Findings: r.Findings,
		}
		if v.Findings == nil {
			v.Findings = []libxlfmt.Finding{}
		}
		return p.printJSON(v)
	}
	for _, f := range r.Findings {
		kind := "note"
		if f.Bad {
			kind = "bad"
		}
		fmt.Fprintf(p.out, "%-4s %#010x %s: %s [%s]\n", kind, f.Offset, f.Field, f.Detail, f.Code)
	}
	if more := r.Total - int64(len(r.Findings)); more > 0 {
		fmt.Fprintf(p.out, "and %d more\n", more)
	}
	word := "good"
	if !r.OK() {
		word = "bad"
	}
	_, err := fmt.Fprintf(p.out, "%s by %v: %d records, %d bytes, end: %v\n", word, p.profile, r.Records, r.Length, r.End)
	return err
}
