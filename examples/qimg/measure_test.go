package main

import "testing"

func TestMeasure(t *testing.T) {
	p := newPair(t)
	p.script(images)
	p.script(`
		measure
		measure --size 1G base.qcow2
		measure a b
		measure -l a
		measure --size x
		measure --size 8E
		measure --size 1G -f qcow2
		measure --output=foo --size 1G
		measure nosuch
		measure -O foo --size 1G
		measure -O qed --size 1G
		measure -O qcow2 -o foo=1 --size 1G
		measure -O qcow2 -o cluster_size=3 --size 1G
		measure -O qcow2 -o preallocation=foo --size 1G
		measure -O qcow2 -o compat=v2 --size 1G
		measure -O qcow2 -o encrypt.format=luks --size 1G
		measure -O qcow2 --size 3P
		measure -O qcow2 -l nosuch base.qcow2
		measure --size 1G
		measure --size 1000
		measure --size 1G --output=json
		measure -O qcow2 --size 0
		measure -O qcow2 --size 1000
		measure -O qcow2 --size 1G
		measure -O qcow2 --size 1G --output json
		measure -O qcow2 -o cluster_size=4k --size 10G
		measure -O qcow2 -o cluster_size=512,refcount_bits=64 --size 1G
		measure -O qcow2 -o cluster_size=2M,refcount_bits=1 --size 1T
		measure -O qcow2 -o extended_l2=on --size 1G
		measure -O qcow2 -o preallocation=metadata --size 1G
		measure -O qcow2 -o preallocation=full --size 1G
		measure -O qcow2 -o data_file=x --size 1G
		measure -O qcow2 -o size=5G --size 1G
		measure -O qcow2 -o compat=0.10 --size 1G
		measure --object secret,id=s,data=a -O qcow2 -o encrypt.format=luks,encrypt.key-secret=s --size 1G
		measure -O qcow2 -o backing_file=x,backing_fmt=raw over.qcow2
		measure --image-opts -O qcow2 driver=qcow2,file.filename=over.qcow2
		measure -O qcow2 -U over.qcow2
		measure -O qcow2 -f raw base.qcow2
		measure -O raw over.qcow2
	`)
	for _, image := range []string{"r.raw", "full.raw", "base.qcow2", "over.qcow2", "top.qcow2", "base.qed", "over.qed", "v2.qcow2", "meta.qcow2", "ext.qcow2", "comp.qcow2", "data.qcow2"} {
		p.script("look measure -O qcow2 " + image + "\nlook measure -O qcow2 -o cluster_size=4k --output=json " + image)
	}
}
