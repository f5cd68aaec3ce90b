package main

import (
	"strings"
	"testing"
)

func TestAmend(t *testing.T) {
	p := newPair(t)
	p.script(`
		create -q -f qcow2 x 1M
		create -q -f raw r.raw 1M
		create -q -f qed e.qed 1M
		amend
		amend x
		amend -o size=2M
		amend -o size=2M a b
		amend -o size=2M nosuch
		amend -o help x
		amend -f qcow2 -o help
		amend -f qed -o help
		amend -f foo -o help
		amend -o help
		amend -o cluster_size=4k x
		amend -o preallocation=off x
		amend -o foo=1 x
		amend -o size=x x
		amend -o compat=x x
		amend -o refcount_bits=7 x
		amend -o backing_file=y x
		amend -o backing_fmt=raw x
		amend -o data_file=y x
		amend -o data_file_raw=on x
		amend -o lazy_refcounts=on r.raw
		amend -o size=2M e.qed
		amend -t foo -o size=2M x
		amend -o encrypt.state=active x
		amend -o size=2M x
		same x
		amend -q -o size=512k x
		same x
		amend -o compat=v2,lazy_refcounts=on x
		amend -o refcount_bits=0 x
		amend -o refcount_bits=128 x
		io -f qcow2 x -c 'write -P 1 0 200k' -c 'write -z 64k 64k'
		snapshot -c a x
		io -f qcow2 x -c 'write -P 2 100k 200k'
		amend -o lazy_refcounts=on x
		same x
		look info x
		amend -o refcount_bits=8 x
		same x
		look info --output=json x
		amend -o compat=v2 x
		amend -o refcount_bits=1 x
		amend -o refcount_bits=64,lazy_refcounts=off x
		same x
		look info x
		create -q -f qcow2 y 4M
		io -f qcow2 y -c 'write -P 1 0 200k' -c 'write -z 64k 64k' -c 'write -z 1M 128k'
		amend -o compat=0.10 y
		same y
		look info y
		amend -o lazy_refcounts=on y
		amend -o compat=v3,lazy_refcounts=on,refcount_bits=4,size=5M y
		same y
		look info --output=json y
		amend --image-opts -o compat=v2,refcount_bits=16,lazy_refcounts=off driver=qcow2,file.filename=y
		same y
		look check y
		amend --force -o lazy_refcounts=off,refcount_bits=16 x
		amend --force -o size=3M,compat=1.1,lazy_refcounts=off,refcount_bits=16 x
		same x
		look info --output=json x
	`)
}

func TestAmendDataFile(t *testing.T) {
	p := newPair(t)
	p.script(`
		create -q -f qcow2 -o data_file=d.raw,data_file_raw=on x 1M
		io -f qcow2 x -c 'write -P 1 0 200k'
		sh cp d.raw e.raw
		amend -o data_file_raw=on x
		amend -o data_file=e.raw x
		look info --output=json x
		sh rm d.raw
		same x
		amend -o data_file=nosuch.raw,data_file_raw=off,lazy_refcounts=on x
		look info x
		sh mv e.raw nosuch.raw
		same x
		amend -o data_file_raw=off x
		amend -o data_file_raw=on x
		look info --output=json x
		amend -o data_file= x
		look info x
		amend -o data_file=d x
		create -q -f qcow2 y 1M
		amend -o data_file= y
		amend -o data_file_raw=off y
		look info y
	`)
}

func TestAmendKeys(t *testing.T) {
	p := newPair(t)
	secrets := "--object secret,id=s,data=abc --object secret,id=n,data=new "
	by := func(id string) string {
		return " --image-opts driver=qcow2,encrypt.key-secret=" + id + ",file.filename=x"
	}
	var lines strings.Builder
	lines.WriteString("create -q " + secrets + "-f qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 x 1M\n")
	for _, o := range []string{
		"encrypt.state=active,encrypt.new-secret=n,encrypt.iter-time=10",
		"encrypt.state=active,encrypt.new-secret=n,encrypt.iter-time=10,encrypt.keyslot=5",
		"encrypt.state=active,encrypt.new-secret=n,encrypt.iter-time=10,encrypt.keyslot=5",
		"encrypt.state=active,encrypt.new-secret=n,encrypt.keyslot=9",
		"encrypt.state=active",
		"encrypt.state=foo",
		"encrypt.new-secret=n",
		"encrypt.state=inactive",
		"encrypt.state=inactive,encrypt.keyslot=1,encrypt.new-secret=n",
		"encrypt.state=inactive,encrypt.keyslot=5",
		"encrypt.state=inactive,encrypt.keyslot=5",
		"encrypt.state=inactive,encrypt.old-secret=n",
		"encrypt.state=inactive,encrypt.old-secret=n",
		"encrypt.state=inactive,encrypt.old-secret=s",
		"encrypt.state=inactive,encrypt.keyslot=0",
	} {
		lines.WriteString("amend " + secrets + "-o " + o + by("s") + "\nmap " + secrets + by("s") + "\nmap " + secrets + by("n") + "\n")
	}
	lines.WriteString("amend " + secrets + "--force -o encrypt.state=inactive,encrypt.old-secret=s" + by("s") + "\nmap " + secrets + by("s") + "\n")
	p.script(strings.TrimSpace(lines.String()))
}
