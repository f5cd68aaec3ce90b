package imginfo_test

import (
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/examples/internal/imginfo"
)

// TestObject holds that objects are written as qemu-img 7.2 writes these.
func TestObject(t *testing.T) {
	o := imginfo.Object{{"lazy-refcounts", false}, {"bitmaps", imginfo.List{
		imginfo.Object{{"flags", imginfo.List{"in-use", "auto"}}, {"name", `a<"ü`}},
		imginfo.Object{{"flags", imginfo.List{}}, {"name", "b"}},
	}}}
	o.Add("refcount-bits", 16)
	const wantJSON = `{
    "lazy-refcounts": false,
    "bitmaps": [
        {
            "flags": [
                "in-use",
                "auto"
            ],
            "name": "a<\"ü"
        },
        {
            "flags": [
            ],
            "name": "b"
        }
    ],
    "refcount-bits": 16
}
`
	const wantText = `  lazy refcounts: false
  bitmaps:
      [0]:
          flags:
              [0]: in-use
              [1]: auto
          name: a<"ü
      [1]:
          flags:
          name: b
  refcount bits: 16
`
	var b strings.Builder
	if err := imginfo.WriteJSON(&b, o); err != nil || b.String() != wantJSON {
		t.Errorf("JSON: %v\n%s", err, b.String())
	}
	b.Reset()
	imginfo.WriteText(&b, o, "  ")
	if b.String() != wantText {
		t.Errorf("text:\n%s", b.String())
	}
}
