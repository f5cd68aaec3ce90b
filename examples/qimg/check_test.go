package main

import (
	"regexp"
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	p := newPair(t)
	p.script(images)
	p.script(`
		check
		check nosuch
		check --output=json nosuch
		check a b
		check -r
		check -r foo base.qcow2
		check --output=foo base.qcow2
		check -T foo base.qcow2
		check -T '' base.qcow2
		check r.raw
		check -f raw base.qcow2
		check --output=json r.raw
		check -q r.raw
		check lost.qcow2
		check aes.qcow2
		check unknown.qcow2
		check -q base.qcow2
		check -q --output=json base.qcow2
		check -U base.qcow2
		check -T none base.qcow2
		check -r all base.qcow2
		check -r leaks --output=json base.qcow2
		check --object secret,id=s,data=abc --image-opts driver=qcow2,encrypt.key-secret=s,file.filename=aes.qcow2
		check --image-opts driver=qcow2,file.filename=base.qcow2
		check --image-opts -f qcow2 driver=qcow2,file.filename=base.qcow2
		check -f qed base.qcow2
	`)
	for _, image := range []string{
		"base.qcow2", "over.qcow2", "top.qcow2", "onraw.qcow2", "base.qed", "over.qed", "v2.qcow2", "meta.qcow2", "full.qcow2", "small.qcow2",
		"ext.qcow2", "data.qcow2", "comp.qcow2", "zstd.qcow2", "sub/up.qcow2", "dirty.qcow2", "corrupt.qcow2",
	} {
		p.script("check " + image + "\ncheck --output=json " + image)
	}
}

// Refcounts of the first block are at 0x20000, the L1 table at 0x30000, the
// first L2 table at 0x40000, and the data from 0x50000.
const damaged = `
	create -q -f qcow2 x 1M
	io -f qcow2 x -c 'write -P 1 0 300k'
`

func TestRepair(t *testing.T) {
	for name, damage := range map[string]string{
		"refcount too low":  `sh printf '\0\0' | dd of=x bs=1 seek=131082 conv=notrunc 2>/dev/null`,
		"refcount too high": `sh printf '\0\2' | dd of=x bs=1 seek=131082 conv=notrunc 2>/dev/null`,
		"leak":              `sh printf '\0\1' | dd of=x bs=1 seek=131100 conv=notrunc 2>/dev/null`,
		"leak and copied":   `sh printf '\0\1' | dd of=x bs=1 seek=131100 conv=notrunc 2>/dev/null; printf '\0' | dd of=x bs=1 seek=262152 conv=notrunc 2>/dev/null`,
		"copied":            `sh printf '\0' | dd of=x bs=1 seek=262152 conv=notrunc 2>/dev/null`,
		"dirty":             `sh printf '\1' | dd of=x bs=1 seek=79 conv=notrunc 2>/dev/null`,
		"corrupt":           `sh printf '\2' | dd of=x bs=1 seek=79 conv=notrunc 2>/dev/null`,
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t)
			if strings.HasPrefix(name, "refcount") {
				// Mending a refcount may mend a flag, or the other way round; and
				// qemu-img moves refcounts that it rebuilds.
				p.ignore = regexp.MustCompile(`(?m)^ +\d+ corruptions$|Image end offset: \d+|"(image-end-offset|corruptions-fixed)": \d+,?`)
			}
			for _, s := range []string{
				"check x", "check --output=json x", "check -q x",
				"check -r leaks x\ncheck x", "check -r all x\ncheck x\nsame x", "check -r all --output=json x", "check -q -r all x", "check --repair=leaks --output json x",
			} {
				p.script(damaged + damage + "\n" + s)
			}
		})
	}
	t.Run("words", func(t *testing.T) {
		newPair(t).script(damaged + `
			sh printf '\0\1\0\3' | dd of=x bs=1 seek=131100 conv=notrunc 2>/dev/null
			says check x
			sh printf '\0\2' | dd of=x bs=1 seek=131082 conv=notrunc 2>/dev/null
			sh printf '\0\0\0\0\0\5\0\0' | dd of=x bs=1 seek=262144 conv=notrunc 2>/dev/null
			says check -q x
		`)
	})
	t.Run("qed", func(t *testing.T) {
		newPair(t).script(`
			create -q -f qed x 1M
			io -f qed x -c 'write -P 1 0 300k'
			sh printf '\2' | dd of=x bs=1 seek=16 conv=notrunc 2>/dev/null
			check x
			look info x
			check -r all x
			check x
		`)
		// The L2 table is at 0xa0000.
		for _, damage := range []string{`printf '\377' | dd seek=655367`, `printf '\1' | dd seek=655360`, `printf '\20' | dd seek=655362`, `printf '\0' | dd seek=655362`} {
			newPair(t).script(`
				create -q -f qed x 1M
				io -f qed x -c 'write -P 1 0 300k'
				sh ` + damage + ` of=x bs=1 conv=notrunc 2>/dev/null
				check x
				check --output=json x
				check -r leaks x
				check -r all x
				check x
				check --output=json x
			`)
		}
	})
}
