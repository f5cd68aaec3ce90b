package vma_test

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/vma"
)

// errorsOf returns the findings of a report that are an Error, without those
// of the codes to ignore.
func errorsOf(r *vma.Report, ignore ...vma.Code) (out []string) {
next:
	for _, f := range r.Findings {
		for _, c := range ignore {
			if f.Code == c {
				continue next
			}
		}
		if f.Severity == vma.Error {
			out = append(out, f.Place()+": "+f.Error())
		}
	}
	return out
}

// verify runs Verify on a file and on a stream, which must say the same.
func verify(t *testing.T, b []byte, o *vma.Options) *vma.Report {
	t.Helper()
	r, err := vma.Verify(t.Context(), bytes.NewReader(b), o)
	if err != nil {
		t.Fatal(err)
	}
	s, err := vma.VerifyStream(t.Context(), struct{ io.Reader }{bytes.NewReader(b)}, o)
	if err != nil {
		t.Fatal(err)
	}
	if x, y := strings.Join(errorsOf(r), "\n"), strings.Join(errorsOf(s), "\n"); x != y {
		t.Errorf("a file gives\n%s\na stream\n%s", x, y)
	}
	return r
}

// compareVerdicts compares what Verify says under each profile with what the
// oracle says: the reference's verify (which does not notice missing
// clusters), its extract, and a strict reading, in which Verify goes further
// and refuses the use of reserved fields.
func compareVerdicts(t *testing.T, b []byte, want verdict) {
	t.Helper()
	proxmox := verify(t, b, nil)
	strict := verify(t, b, &vma.Options{Profile: vma.Strict})
	for _, c := range []struct {
		rules, want string
		got         []string
	}{
		{"verify", want.Verify, errorsOf(proxmox, vma.CodeMissing)},
		{"extract", want.Extract, errorsOf(proxmox)},
		{"strict", want.Strict, errorsOf(strict, vma.CodeReserved)},
	} {
		if (len(c.got) == 0) != (c.want == "ok") {
			t.Errorf("%s: the oracle says %q, Verify finds %q", c.rules, c.want, c.got)
		}
	}
	for _, c := range []struct {
		want string
		r    *vma.Report
	}{{want.Extract, proxmox}, {want.Strict, strict}} {
		reason, _, _ := strings.Cut(c.want, ":")
		if c.want != "ok" && !slices.ContainsFunc(reasons[reason], func(code vma.Code) bool { return c.r.Count(code) > 0 }) {
			t.Errorf("%v: the oracle says %q, Verify finds %q", c.r.Profile, c.want, errorsOf(c.r))
		}
	}
}

// reasons maps the oracle's reasons to codes.
var reasons = map[string][]vma.Code{
	"magic":             {vma.CodeHeaderMagic},
	"version":           {vma.CodeHeaderVersion},
	"header-size":       {vma.CodeHeaderSize},
	"header-md5":        {vma.CodeHeaderMD5},
	"short-header":      {vma.CodeTruncated},
	"blob-offset":       {vma.CodeBlobRange},
	"blob-size":         {vma.CodeBlobRange, vma.CodeBlobWrap},
	"blob-overrun":      {vma.CodeBlobOverrun},
	"config-pointer":    {vma.CodeConfigPointer, vma.CodeConfigHalf},
	"config-name":       {vma.CodeConfigName},
	"device-name":       {vma.CodeDeviceName},
	"device-entry":      {vma.CodeDeviceEntry},
	"device-id":         {vma.CodeDeviceID, vma.CodeReference},
	"extent-md5":        {vma.CodeExtentMD5, vma.CodeTrailing, vma.CodeSkipped, vma.CodeLost},
	"extent-magic":      {vma.CodeExtentMagic, vma.CodeExtentReserved},
	"extent-uuid":       {vma.CodeExtentUUID},
	"extent-blocks":     {vma.CodeBlockCount},
	"short-extent":      {vma.CodeTruncated, vma.CodeBlockCount, vma.CodeTrailing},
	"cluster-range":     {vma.CodeClusterRange, vma.CodeBlockRange, vma.CodePadding, vma.CodeReference},
	"duplicate-cluster": {vma.CodeDuplicate},
	"vmstate-order":     {vma.CodeVMStateOrder},
	"missing-cluster":   {vma.CodeMissing, vma.CodeVMStateMissing},
}

// readingAgrees tests that Open and a Reader fail exactly where Verify finds
// an error, beyond the limits of Proxmox's tool.
func readingAgrees(t *testing.T, b []byte, p vma.Profile) {
	t.Helper()
	o := &vma.Options{Profile: p}
	bad := len(errorsOf(verify(t, b, o), vma.CodeReference)) > 0
	_, err := vma.Open(bytes.NewReader(b), o)
	if (err != nil) != bad {
		t.Errorf("%v: Open: %v, Verify found errors: %v", p, err, bad)
	}
	rd, errStream := vma.NewReader(bytes.NewReader(b), o)
	for errStream == nil {
		_, errStream = rd.Next()
	}
	if (errStream != io.EOF) != bad {
		t.Errorf("%v: Reader: %v, Verify found errors: %v", p, errStream, bad)
	}
	var f *vma.FormatError
	var finding vma.Finding
	if bad && (!errors.As(err, &f) || !errors.As(err, &finding) || err.Error() != errStream.Error()) {
		t.Errorf("%v: Open: %v, Reader: %v", p, err, errStream)
	}
}
