package main

import "testing"

func TestCreate(t *testing.T) {
	p := newPair(t)
	p.script(`
		create
		create x
		create -f raw
		create -f nosuch y 1M
		create -f vma y 1M
		create -f qcow2 -o help
		create -f qcow2 -o help y
		create -f raw -o help
		create -f raw -o help y
		create -f qed -o help
		create -f qed -o help y
		create -f qcow2 -o cluster_size=4k,help
		create -f qcow2 -o ?

		create r.raw 1M
		cmp r.raw
		create -f raw odd.raw 1000
		cmp odd.raw
		create -f raw one.raw 1
		cmp one.raw
		create -f raw zero.raw 0
		cmp zero.raw
		create -f raw full.raw -o preallocation=full 100k
		cmp full.raw
		create -f raw falloc.raw -o preallocation=falloc 100k
		cmp falloc.raw
		create -f raw off.raw -o preallocation=off 100k
		create -f raw bad.raw -o preallocation=metadata 100k
		create -f raw bad.raw -o preallocation=foo 100k
		create -f raw nocow.raw -o nocow=on 100k
		create y 1M 2M
		create -f qcow2 q.qcow2 1M
		cmp q.qcow2
		create -fqcow2 q.qcow2 10G
		cmp q.qcow2
		create q.qcow2 -f qcow2 1.5G
		cmp q.qcow2
		create -f qcow2 -- q.qcow2 1T
		cmp q.qcow2
		create -q -f qcow2 q.qcow2 0x100000
		cmp q.qcow2
		create -qf qcow2 q.qcow2 1000
		cmp q.qcow2
		create -f qcow2 zero.qcow2 0
		cmp zero.qcow2
		create -f qcow2 q.qcow2 -5
		create -f qcow2 q.qcow2 1x
		create -f qcow2 q.qcow2 ''
		create -f qcow2 q.qcow2 8E
		create -f qcow2 q.qcow2 1.5
		create -f qcow2 q.qcow2 2E
		create -f qcow2 -o cluster_size=2M q.qcow2 1T
		cmp q.qcow2
		create -f qcow2 -o cluster_size=512 q.qcow2 10M
		cmp q.qcow2
		create -f qcow2 -o cluster_size=64k,cluster_size=128k q.qcow2 10M
		cmp q.qcow2
		create -f qcow2 -o cluster_size=3 y 1M
		create -f qcow2 -o cluster_size=4M y 1M
		create -f qcow2 -o cluster_size=xx y 1M
		create -f qcow2 -o foo=1 y 1M
		create -f qcow2 -o lazy_refcounts=xx y 1M
		create -f qcow2 -o lazy_refcounts q.qcow2 1M
		cmp q.qcow2
		create -f qcow2 -o nolazy_refcounts q.qcow2 1M
		cmp q.qcow2
		create -f qcow2 -o lazy_refcounts=on -o refcount_bits=1 q.qcow2 1M
		cmp q.qcow2
		create -f qcow2 -o refcount_bits=64,cluster_size=4k q.qcow2 1M
		cmp q.qcow2
		create -f qcow2 -o refcount_bits=7 y 1M
		create -f qcow2 -o refcount_bits=128 y 1M
		create -f qcow2 -o refcount_bits=0 y 1M
		create -f qcow2 -o compat=0.10 q.qcow2 1M
		cmp q.qcow2
		create -f qcow2 -o compat=v2 q.qcow2 1M
		cmp q.qcow2
		create -f qcow2 -o compat=1.1 q.qcow2 1M
		create -f qcow2 -o compat=v3 q.qcow2 1M
		create -f qcow2 -o compat=x y 1M
		create -f qcow2 -o compat=0.10 -o lazy_refcounts=on y 1M
		create -f qcow2 -o compat=0.10,refcount_bits=8 y 1M
		create -f qcow2 -o compat=0.10,compression_type=zstd y 1M
		create -f qcow2 -o compression_type=zstd q.qcow2 1M
		cmp q.qcow2
		create -f qcow2 -o compression_type=lz y 1M
		create -f qcow2 -o extended_l2=on q.qcow2 1M
		cmp q.qcow2
		create -f qcow2 -o extended_l2=on,cluster_size=8k y 1M
		create -f qcow2 -o preallocation=metadata,cluster_size=4096 q.qcow2 1M
		cmp q.qcow2
		create -f qcow2 -o preallocation=falloc q.qcow2 1M
		cmp q.qcow2
		create -f qcow2 -o preallocation=full q.qcow2 1M
		cmp q.qcow2
		create -f qcow2 -o preallocation=foo y 1M
		create -f qcow2 -o size=2M q.qcow2
		cmp q.qcow2
		create -f qcow2 -o size=2M y 3M
		create -f qcow2 -o data_file=d.raw q.qcow2 1M
		cmp q.qcow2
		cmp d.raw
		create -f qcow2 -o data_file=d.raw,data_file_raw=on q.qcow2 1M
		cmp q.qcow2
		cmp d.raw
		create -f qcow2 -o data_file_raw=on y 1M
		create -f qcow2 /nosuch/y 1M
		create -f qcow2 nosuch:y 1M
		create -f qcow2 file:q2.qcow2 1M
		cmp q2.qcow2
		create --bad
		create -Z
		create -f
		create -6 -f qcow2 y 1M
	`)
	t.Logf("%d lines", p.lines)
}

func TestCreateOnBacking(t *testing.T) {
	p := newPair(t)
	p.script(`
		create -q -f raw r.raw 2M
		create -q -f qcow2 base.qcow2 1M
		create -q -f qed base.qed 1M
		sh mkdir sub
		sh cp r.raw 'c,o m'
		create -f qcow2 -b base.qcow2 -F qcow2 y
		cmp y
		create -f qcow2 -b base.qcow2 -F qcow2 y 5M
		cmp y
		create -f qcow2 -b r.raw -F raw y
		cmp y
		create -f qcow2 -b base.qed -F qed y
		cmp y
		create -f qcow2 -b ../base.qcow2 -F qcow2 sub/y
		cmp sub/y
		create -f qcow2 -b base.qcow2 -F qcow2 sub/y
		create -f qcow2 -b base.qcow2 y
		create -f qcow2 -b r.raw y
		create -f qcow2 -b nosuch -F qcow2 y
		create -f qcow2 -b nosuch -F qcow2 y 1M
		create -f qcow2 -b base.qcow2 -F nosuch y 1M
		create -f qcow2 -b base.qcow2 -F qed y 1M
		create -f qcow2 -u -b nosuch -F qcow2 y 1M
		cmp y
		create -f qcow2 -u -b nosuch -F qcow2 y
		create -f qcow2 -u -b nosuch y 1M
		create -f qcow2 -F raw y 1M
		create -f qcow2 -b y -F qcow2 y 1M
		create -f qcow2 -b '' y 1M
		create -f qcow2 -o backing_file=base.qcow2,backing_fmt=qcow2 y
		cmp y
		create -f qcow2 -o backing_file=base.qcow2 -F qcow2 y
		cmp y
		create -f qcow2 -o backing_file=base.qcow2,backing_fmt=qcow2 -b r.raw -F raw y
		cmp y
		create -f qcow2 -o backing_file='c,,o m',backing_fmt=raw y
		cmp y
		create -f qcow2 -b 'c,o m' -F raw y
		cmp y
		create -f qcow2 -b 'json:{"driver":"raw","file":{"filename":"r.raw"}}' -F raw y
		cmp y
		create -f qcow2 -o compat=v2 -b base.qcow2 -F qcow2 y
		cmp y
		create -f qcow2 -o preallocation=metadata -b base.qcow2 -F qcow2 y
		create -f qcow2 -o preallocation=metadata,extended_l2=on -b base.qcow2 -F qcow2 y
		cmp y
		create -f qcow2 -o data_file=d,data_file_raw=on -b base.qcow2 -F qcow2 y
		create -f raw -b base.qcow2 -F qcow2 y
		create -f raw -F qcow2 y 1M
		create -f qed -b r.raw -F raw y
		cmp y
		create -f qed -b base.qcow2 -F qcow2 y
		cmp y
		create -f qed -u -b nosuch -F qcow2 y 1M
		cmp y
	`)
	t.Logf("%d lines", p.lines)
}

func TestCreateQED(t *testing.T) {
	p := newPair(t)
	p.script(`
		create -f qed y 1M
		cmp y
		create -f qed -o cluster_size=4k,table_size=2 y 1M
		cmp y
		create -f qed -o table_size=1 y 1M
		cmp y
		create -f qed -o table_size=16,cluster_size=1M y 10G
		cmp y
		create -f qed -o cluster_size=3 y 1M
		create -f qed -o cluster_size=128M y 1M
		create -f qed -o table_size=3 y 1M
		create -f qed -o table_size=32 y 1M
		create -f qed -o lazy_refcounts=on y 1M
		create -f qed y 1000
		cmp y
		create -f qed y 100P
	`)
}

// Keys are random, so that the files cannot be equal.
func TestCreateEncrypted(t *testing.T) {
	p := newPair(t)
	p.script(`
		create -f qcow2 -o encryption=on y 1M
		create -f qcow2 -o encrypt.format=luks y 1M
		create -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s y 1M
		create -f qcow2 -o encrypt.format=foo,encrypt.key-secret=s y 1M
		create --object secret,id=s,data=abc -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 y 1M
		io --object secret,id=s,data=abc --image-opts driver=qcow2,encrypt.key-secret=s,file.filename=y -c 'write -P 1 0 64k'
		look info y
		look info --output=json y
		create --object secret,id=s,data=abc -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10,encrypt.cipher-alg=aes-128,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,encrypt.ivgen-hash-alg=sha256,encrypt.hash-alg=sha1 y 1M
		look info y
		create --object secret,id=s,data=abc -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.cipher-alg=x y 1M
		create --object secret,id=s,data=abc -f qcow2 -o encrypt.format=aes,encrypt.key-secret=s y 1M
		cmp y
		look info y
		look info --output=json y
		create --object secret,id=s,data=abc -f qcow2 -o encryption=on,encrypt.key-secret=s y 1M
		cmp y
		create --object secret,id=s y 1M
		create --object secret,id=s,file=nosuch y 1M
		create --object secret,data=s y 1M
		create --object foo,id=s y 1M
		create --object secret,id=s,data=abc,format=x y 1M
		create --object secret,id=s,data=!!,format=base64 -f qcow2 -o encrypt.format=aes,encrypt.key-secret=s y 1M
	`)
}
