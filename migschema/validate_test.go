package migschema_test

import (
	"errors"
	"testing"

	"github.com/virtfmt/virtfmt/migschema"
)

func TestValidate(t *testing.T) {
	type S = migschema.Section
	i := migschema.NewInt
	ram := func(total int64, blocks ...migschema.RAMBlockID) S {
		return &migschema.SecFull{Name: "ram", SectionID: i(2), VersionID: i(4), Contents: &migschema.RAMBlockList{TotalRAM: i(total), Blocks: blocks}}
	}
	dev := func(name string, id, instance int64) S {
		return &migschema.SecFull{Name: name, SectionID: i(id), InstanceID: i(instance), VersionID: i(1), Contents: migschema.OldBlob{1}}
	}
	pages := func(id int64, block string, pages ...migschema.RAMPage) S {
		return &migschema.SecMin{SectionID: i(id), RAMSec: []migschema.RAMSecBlock{{Name: block, PageList: pages}}}
	}
	zero := func(addr int64) migschema.RAMPage { return migschema.Compr{Addr: i(addr)} }
	delta := func(addr int64, b ...byte) migschema.RAMPage {
		return &migschema.XBZRLEPage{Addr: i(addr), Data: b}
	}
	two := ram(12288, migschema.RAMBlockID{Name: "a", Len: i(8192)}, migschema.RAMBlockID{Name: "b", Len: i(4096)})
	for _, c := range []struct {
		name string
		want error
		top  []S
	}{
		{"sound", nil, []S{two, pages(2, "a", zero(0), zero(4096), migschema.Hook{}), pages(2, "b", zero(0)), pages(2, "a", delta(4096, 1, 1, 9)), dev("x", 3, 0), dev("x", 4, 1), dev("isa-ide", 5, 0), dev("isa-ide", 6, 0)}},
		{"empty", nil, nil},
		{"other iterator in parts", nil, []S{dev("dirty-bitmap", 3, 0), two, dev("dirty-bitmap", 3, 0), dev("dirty-bitmap", 3, 0)}},
		{"escapes", nil, []S{dev("command", -8, 1), dev("command", -8, 1)}},
		{"id twice", migschema.CodeDuplicateID, []S{dev("x", 3, 0), dev("y", 3, 0)}},
		{"id of RAM twice", migschema.CodeDuplicateID, []S{two, dev("ram", 2, 0)}},
		{"block twice", migschema.CodeDuplicateID, []S{ram(2, migschema.RAMBlockID{Name: "a", Len: i(1)}, migschema.RAMBlockID{Name: "a", Len: i(1)})}},
		{"part of nothing", migschema.CodeUnknownID, []S{two, pages(5, "a")}},
		{"part of a device", migschema.CodeUnknownID, []S{dev("x", 3, 0), pages(3, "a")}},
		{"unknown block", migschema.CodeUnknownID, []S{two, pages(2, "c", zero(0))}},
		{"too little", migschema.CodeSum, []S{ram(3, migschema.RAMBlockID{Name: "a", Len: i(4)})}},
		{"too much", migschema.CodeSum, []S{ram(5, migschema.RAMBlockID{Name: "a", Len: i(4)})}},
		{"unaligned", migschema.CodePageRange, []S{two, pages(2, "a", zero(5))}},
		{"past the block", migschema.CodePageRange, []S{two, pages(2, "b", zero(4096))}},
		{"past everything", migschema.CodePageRange, []S{two, pages(2, "b", migschema.Compr{Addr: migschema.NewUint(1<<64 - 4096)})}},
		{"delta of nothing", migschema.CodeOrder, []S{two, pages(2, "a", zero(0), delta(4096, 1, 1, 9))}},
		{"bad delta", migschema.CodeXBZRLE, []S{two, pages(2, "a", zero(0), delta(0, 1, 9))}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := migschema.Marshal(&migschema.QemuFile{Version: i(3), Top: c.top}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := count(migschema.NewDecoderBytes(b, nil)); err != nil {
				t.Errorf("without validation: %v", err)
			}
			_, err = count(migschema.NewDecoderBytes(b, &migschema.DecoderOptions{Validate: true}))
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			var fe *migschema.FormatError
			if c.want != nil && (!errors.As(err, &fe) || fe.Offset == 0 || fe.Field == "") {
				t.Errorf("no place in %#v", err)
			}
		})
	}
}

func TestValidateVectors(t *testing.T) {
	for id, want := range map[string]error{"pol/dup-sectionid": migschema.CodeDuplicateID, "pol/secmin-unknown-id": migschema.CodeUnknownID} {
		b := fileVector(t, id)
		if _, err := count(migschema.NewDecoderBytes(b, &migschema.DecoderOptions{Validate: true})); !errors.Is(err, want) {
			t.Errorf("%s: %v", id, err)
		}
	}
}
