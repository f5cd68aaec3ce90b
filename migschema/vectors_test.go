package migschema_test

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"testing"

	"github.com/virtfmt/virtfmt/migschema"
)

type vector struct {
	ID, Group, Type string
	BER             string
	Expect          string
	Value           json.RawMessage
	Reason          string
	DER             *bool
	Lenient         string
	Offset          int64
	Path            string
}

func (v *vector) octets(t *testing.T) []byte {
	t.Helper()
	b, err := hex.DecodeString(v.BER)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func vectors(t testing.TB) []vector {
	t.Helper()
	b, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var v []vector
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func newValue(t testing.TB, typ string) any {
	t.Helper()
	switch typ {
	case "QemuFile":
		return new(migschema.QemuFile)
	case "Sections":
		return new(migschema.Section)
	case "SecFull":
		return new(migschema.SecFull)
	case "SecMin":
		return new(migschema.SecMin)
	case "RAMBlockList":
		return new(migschema.RAMBlockList)
	case "RAMBlockID":
		return new(migschema.RAMBlockID)
	case "RAMSecBlock":
		return new(migschema.RAMSecBlock)
	case "RAMPage":
		return new(migschema.RAMPage)
	case "FullPage":
		return new(migschema.FullPage)
	case "XBZRLEPage":
		return new(migschema.XBZRLEPage)
	case "VMState":
		return new(migschema.VMState)
	case "VMStateEntries":
		return new(migschema.Entry)
	case "SubSecList":
		return new(migschema.SubSecList)
	case "SubSection":
		return new(migschema.SubSection)
	case "SectionID":
		return new(migschema.Int)
	case "QemuString":
		return new(migschema.QemuString)
	case "SecEndMark":
		return new(migschema.SecEndMark)
	}
	t.Fatalf("no type %q", typ)
	return nil
}

// everyLeniency but segments of another type, which the vectors count as
// malformed for good.
var everyLeniency = migschema.Lenient{
	IntNotMinimal: true, AnyTag: true, PageSize: true, NameSize: true, Version: true, Unknown: true, TrailingData: true,
}

func TestVectorsDecode(t *testing.T) {
	for _, v := range vectors(t) {
		t.Run(v.ID, func(t *testing.T) {
			b := v.octets(t)
			err := migschema.Unmarshal(b, newValue(t, v.Type), nil)
			switch v.Expect {
			case "accept":
				if err != nil {
					t.Errorf("strict: %v", err)
				}
			case "reject":
				checkFault(t, &v, err)
			}
			if v.DER != nil {
				err := migschema.Unmarshal(b, newValue(t, v.Type), &migschema.DecoderOptions{DER: true})
				if (err == nil) != *v.DER {
					t.Errorf("DER: %v", err)
				}
			}
			if v.Lenient != "" {
				err := migschema.Unmarshal(b, newValue(t, v.Type), &migschema.DecoderOptions{Lenient: everyLeniency})
				if (err == nil) != (v.Lenient == "accept") {
					t.Errorf("lenient: want %s, got %v", v.Lenient, err)
				}
			}
		})
	}
}

func checkFault(t *testing.T, v *vector, err error) {
	t.Helper()
	var fe *migschema.FormatError
	if !errors.As(err, &fe) {
		t.Fatalf("got %v, want a FormatError", err)
	}
	if fe.Offset != v.Offset || fe.Field != v.Path || string(fe.Code) != v.Reason {
		t.Errorf("got %s at %d in %s, want %s at %d in %s", fe.Code, fe.Offset, fe.Field, v.Reason, v.Offset, v.Path)
	}
}
