package main

import (
	"regexp"
	"strings"
	"testing"
)

func TestSnapshot(t *testing.T) {
	p := newPair(t)
	// The time is not the same in both.
	p.ignore = regexp.MustCompile(`20\d\d-\d\d-\d\d \d\d:\d\d:\d\d|"date-n?sec": \d+,?`)
	for _, image := range []string{"-f qcow2", "-f qcow2 -o compat=v2", "-f qcow2 -o cluster_size=16k,extended_l2=on"} {
		p.script("create -q " + image + " x 4M")
		p.script(`
			snapshot x
			snapshot -l x
			io -f qcow2 x -c 'write -P 1 0 200k' -c 'write -P 2 2M 64k'
			snapshot -c a x
			io -f qcow2 x -c 'write -P 3 100k 200k'
			snapshot -c b x
			look snapshot -l x
			snapshot -l x
			look info x
			look info --output=json x
			io -f qcow2 x -c 'write -P 4 0 2M' -c 'discard 2M 64k'
			same x
			snapshot -a a x
			same x
			snapshot -a 2 x
			same x
			snapshot -c 1 x
			snapshot -q -c '' x
			snapshot -c 'a name that is longer than the column' x
			snapshot -c '` + strings.Repeat("0123456789", 26) + `' x
			look snapshot -l x
			convert -l a x z.raw
			cmp z.raw
			convert -l 2 x z.raw
			cmp z.raw
			convert -l snapshot.id=1 x z.raw
			cmp z.raw
			convert -l snapshot.name=b x z.raw
			cmp z.raw
			convert -l snapshot.name=b -O qcow2 -c x z
			same z
			snapshot -d 1 x
			same x
			look snapshot -l x
			snapshot -d b x
			snapshot -d nosuch x
			snapshot -a nosuch x
			same x
			look check x
			snapshot -U -l x
			snapshot -l --image-opts driver=qcow2,file.filename=x
		`)
	}
	p.script(`
		snapshot
		snapshot -l nosuch
		snapshot -l x y
		snapshot -l -c a x
		snapshot -a 1 -d 1 x
		snapshot -f qcow2 -l x
		snapshot -U -c a x
		snapshot -c
		create -q -f raw r.raw 1M
		create -q -f qed e.qed 1M
		snapshot -l r.raw
		snapshot -c a r.raw
		snapshot -a a r.raw
		snapshot -d a r.raw
		snapshot -l e.qed
		snapshot -c a e.qed
		create -q -f qcow2 -o data_file=d d.qcow2 1M
		snapshot -c a d.qcow2
		convert -l nosuch x z
		convert -l snapshot.name=b,snapshot.id=9 x z
		convert -l foo=1 x z
		convert -l 3 r.raw z
		convert -l 3 x x z
	`)
}
