package main

import "testing"

// images makes the images that the tests below look at.
const images = `
	create -q -f raw r.raw 2M
	sh printf 'foo' > odd.raw
	sh : > empty.raw
	sh seq 1 300000 | head -c 1310720 > rnd
	sh cp rnd full.raw
	sh truncate -s 3M full.raw
	create -q -f qcow2 base.qcow2 10M
	io -f qcow2 base.qcow2 -c 'write -P 3 0 100k' -c 'write -P 5 3M 300k' -c 'write -z 5M 192k'
	create -q -f qcow2 -b base.qcow2 -F qcow2 over.qcow2
	io -f qcow2 over.qcow2 -c 'write -P 7 64k 64k' -c 'write -z 3M 64k' -c 'discard 5M 64k'
	create -q -f qcow2 -b over.qcow2 -F qcow2 top.qcow2 12M
	io -f qcow2 top.qcow2 -c 'write -P 8 11M 64k' -c 'write -P 9 70k 1k'
	create -q -f qcow2 -b r.raw -F raw onraw.qcow2 4M
	io -f raw r.raw -c 'write -P 1 1M 4k'
	io -f qcow2 onraw.qcow2 -c 'write -P 2 0 4k'
	create -q -f qed base.qed 4M
	io -f qed base.qed -c 'write -P 4 1M 200k' -c 'write -z 2M 64k'
	create -q -f qed -b r.raw -F raw over.qed 4M
	io -f qed over.qed -c 'write -P 6 64k 64k' -c 'write -z 1M 64k'
	create -q -f qed -b base.qcow2 -F qcow2 onqcow2.qed
	create -q -f qcow2 -o compat=0.10 v2.qcow2 4M
	io -f qcow2 v2.qcow2 -c 'write -P 4 1M 200k'
	create -q -f qcow2 -o preallocation=metadata meta.qcow2 10M
	io -f qcow2 meta.qcow2 -c 'write -P 4 1M 200k' -c 'write -z 2M 128k'
	create -q -f qcow2 -o preallocation=full full.qcow2 2M
	create -q -f qcow2 -o cluster_size=4k,refcount_bits=1,lazy_refcounts=on small.qcow2 4M
	io -f qcow2 small.qcow2 -c 'write -P 4 1M 200k' -c 'write -P 5 30k 1k'
	create -q -f qcow2 -o extended_l2=on ext.qcow2 4M
	io -f qcow2 ext.qcow2 -c 'write -P 4 1M 3k' -c 'write -z 1030k 2k' -c 'write -P 2 2M 300k'
	create -q -f qcow2 -o data_file=data.raw data.qcow2 2M
	io -f qcow2 data.qcow2 -c 'write -P 4 1M 100k'
	create -q -f qcow2 comp.qcow2 4M
	io -f qcow2 comp.qcow2 -c 'write -c -P 4 1M 128k' -c 'write -P 5 64k 64k'
	create -q -f qcow2 -o compression_type=zstd zstd.qcow2 4M
	io -f qcow2 zstd.qcow2 -c 'write -c -P 4 1M 128k'
	create -q --object secret,id=s,data=abc -f qcow2 -o encrypt.format=aes,encrypt.key-secret=s aes.qcow2 1M
	io --object secret,id=s,data=abc --image-opts driver=qcow2,encrypt.key-secret=s,file.filename=aes.qcow2 -c 'write -P 1 0 64k'
	create -q -f qcow2 -u -b nosuch -F qcow2 lost.qcow2 1M
	sh mkdir sub
	create -q -f qcow2 -b ../over.qcow2 -F qcow2 sub/up.qcow2
	create -q -f qcow2 -o lazy_refcounts=on dirty.qcow2 1M
	io -f qcow2 dirty.qcow2 -c 'write 0 64k'
	sh printf '\1' | dd of=dirty.qcow2 bs=1 seek=79 conv=notrunc 2>/dev/null
	create -q -f qcow2 corrupt.qcow2 1M
	sh printf '\2' | dd of=corrupt.qcow2 bs=1 seek=79 conv=notrunc 2>/dev/null
	create -q -f qcow2 unknown.qcow2 1M
	sh printf '\200' | dd of=unknown.qcow2 bs=1 seek=79 conv=notrunc 2>/dev/null
	sh sync -d *.qcow2 *.qed *.raw
`

func TestInfo(t *testing.T) {
	p := newPair(t)
	p.script(images)
	p.script(`
		info
		info nosuch
		info a b
		info --output=foo base.qcow2
		info --output
		info ''
		info --bad base.qcow2
		info -f
		info -f nosuch base.qcow2
		info -f qed base.qcow2
		info -f qcow2 r.raw
		info foo:bar
		info json:x
		info json:{}
		info unknown.qcow2
		info /
		info --image-opts base.qcow2
		info --image-opts filename=base.qcow2
		info --image-opts driver=qcow2
		info --image-opts driver=qcow2,file.filename=base.qcow2,foo=1
		info --image-opts driver=qcow2,file.filename=over.qcow2,backing.driver=raw
		info -f qcow2 --image-opts driver=qcow2,file.filename=base.qcow2
		info --backing-chain lost.qcow2
		info --backing-chain --output=json lost.qcow2
		look info -f raw base.qcow2
		look info base.qcow2 --output=json
		look info --output human base.qcow2
		look info --outp=json base.qcow2
		look info -U base.qcow2
		look info --force-share base.qcow2
		look info file:base.qcow2
		look info --image-opts driver=qcow2,file.filename=base.qcow2
		look info --image-opts driver=qcow2,file.driver=file,file.filename=over.qcow2
		look info --image-opts file.filename=base.qcow2
		look info --image-opts driver=raw,offset=512,size=1024,file.filename=r.raw
		look info --image-opts driver=file,filename=r.raw
		look info 'json:{"driver":"qcow2","file":{"driver":"file","filename":"over.qcow2"}}'
		look info 'json:{"driver":"qcow2","file.driver":"file","file.filename":"over.qcow2"}'
		look info 'json:{"driver":"qcow2","file.filename":"over.qcow2","backing":null}'
		look info --object secret,id=s,data=abc --image-opts driver=qcow2,encrypt.key-secret=s,file.filename=aes.qcow2
		look info --backing-chain r.raw
		look info --backing-chain top.qcow2
		look info --backing-chain sub/up.qcow2
		look info --backing-chain over.qed
		look info --backing-chain onqcow2.qed
		look info --backing-chain --output=json top.qcow2
		look info --backing-chain --output=json r.raw
	`)
	for _, image := range []string{
		"r.raw", "odd.raw", "empty.raw", "base.qcow2", "over.qcow2", "top.qcow2", "onraw.qcow2", "base.qed", "over.qed", "onqcow2.qed",
		"v2.qcow2", "meta.qcow2", "full.qcow2", "small.qcow2", "ext.qcow2", "data.qcow2", "comp.qcow2", "zstd.qcow2", "aes.qcow2", "lost.qcow2",
		"sub/up.qcow2", "dirty.qcow2", "corrupt.qcow2",
	} {
		p.script("look info " + image + "\nlook info --output=json " + image)
	}
}

func TestMap(t *testing.T) {
	p := newPair(t)
	p.script(images)
	p.script(`
		map
		look map nosuch
		look map a b
		look map -s -1 base.qcow2
		look map -s x base.qcow2
		look map -l x base.qcow2
		look map --output=foo base.qcow2
		look map lost.qcow2
		look map aes.qcow2
		look map --object secret,id=s,data=abc --image-opts driver=qcow2,encrypt.key-secret=t,file.filename=aes.qcow2
		look map unknown.qcow2
		look map -s 10M over.qcow2
		look map -s 100M over.qcow2
		look map --output=json -s 10M over.qcow2
		look map --start-offset=1k over.qcow2
		look map --start-offset 1k --max-length=100k over.qcow2
		look map --max-length=1k over.qcow2
		look map --output=json -s 64k -l 4M top.qcow2
		look map --output=json -l 0 top.qcow2
		look map --image-opts driver=qcow2,file.filename=over.qcow2,backing.driver=raw,backing.file.filename=r.raw
		look map 'json:{"driver":"qcow2","file.filename":"over.qcow2","backing":null}'
		look map --output=json 'json:{"driver":"qcow2","file.filename":"over.qcow2","backing":null}'
		look map --object secret,id=s,data=abc --image-opts driver=qcow2,encrypt.key-secret=s,file.filename=aes.qcow2
		look map --output=json --object secret,id=s,data=abc --image-opts driver=qcow2,encrypt.key-secret=s,file.filename=aes.qcow2
		look map -f raw --output=json base.qcow2
	`)
	for _, image := range []string{
		"r.raw", "odd.raw", "empty.raw", "full.raw", "base.qcow2", "over.qcow2", "top.qcow2", "onraw.qcow2", "base.qed", "over.qed", "onqcow2.qed",
		"v2.qcow2", "meta.qcow2", "full.qcow2", "small.qcow2", "ext.qcow2", "data.qcow2", "comp.qcow2", "zstd.qcow2",
		"sub/up.qcow2", "dirty.qcow2", "corrupt.qcow2",
	} {
		p.script("look map " + image + "\nlook map --output=json " + image)
	}
}

func TestCompare(t *testing.T) {
	p := newPair(t)
	p.script(images)
	p.script(`
		sh cp base.qcow2 copy.qcow2
		io -f qcow2 copy.qcow2 -c 'write -P 2 70k 1k'
		create -q -f qcow2 long.qcow2 20M
		io -f qcow2 long.qcow2 -c 'write -P 3 0 100k' -c 'write -P 5 3M 300k'
		create -q -f qcow2 longer.qcow2 20M
		io -f qcow2 longer.qcow2 -c 'write -P 3 0 100k' -c 'write -P 5 3M 300k' -c 'write -P 1 15000k 1k'
		compare
		compare base.qcow2
		compare a b c
		compare base.qcow2 nosuch
		compare nosuch base.qcow2
		compare -f foo base.qcow2 copy.qcow2
		compare -F foo base.qcow2 copy.qcow2
		compare -T foo base.qcow2 copy.qcow2
		compare --bad base.qcow2 copy.qcow2
		compare -T none base.qcow2 base.qcow2
		compare base.qcow2 base.qcow2
		compare -s base.qcow2 base.qcow2
		compare base.qcow2 copy.qcow2
		compare -q base.qcow2 copy.qcow2
		compare -s base.qcow2 copy.qcow2
		compare -f raw base.qcow2 copy.qcow2
		compare -f raw -F raw base.qcow2 base.qcow2
		compare -f qcow2 -F qcow2 base.qcow2 copy.qcow2
		compare base.qcow2 long.qcow2
		compare long.qcow2 base.qcow2
		compare -s long.qcow2 base.qcow2
		compare -q long.qcow2 base.qcow2
		compare base.qcow2 longer.qcow2
		compare longer.qcow2 base.qcow2
		compare -s longer.qcow2 base.qcow2
		compare long.qcow2 longer.qcow2
		compare -s long.qcow2 longer.qcow2
		compare sub/up.qcow2 over.qcow2
		compare -s sub/up.qcow2 over.qcow2
		compare base.qcow2 over.qcow2
		compare top.qcow2 over.qcow2
		compare -U base.qcow2 over.qcow2
		compare base.qcow2 r.raw
		compare base.qed r.raw
		compare r.raw empty.raw
		compare -s r.raw odd.raw
		compare lost.qcow2 base.qcow2
		compare aes.qcow2 base.qcow2
		compare --image-opts driver=qcow2,file.filename=base.qcow2 driver=qcow2,file.filename=copy.qcow2
		compare --image-opts -f qcow2 driver=qcow2,file.filename=base.qcow2 driver=qcow2,file.filename=copy.qcow2
		compare --object secret,id=s,data=abc --image-opts driver=qcow2,encrypt.key-secret=s,file.filename=aes.qcow2 driver=qcow2,file.filename=base.qcow2
		compare v2.qcow2 small.qcow2
		compare -s v2.qcow2 comp.qcow2
		compare -s v2.qcow2 ext.qcow2
		compare full.qcow2 r.raw
		compare -s full.qcow2 data.qcow2
		compare -F '' v2.qcow2 comp.qcow2

		# entries that point between clusters, compressed data that ends early
		create -q -f qcow2 whole.qcow2 1M
		io -f qcow2 whole.qcow2 -c 'write -c -P 1 0 64k' -c 'write -P 1 64k 64k'
		sh cp whole.qcow2 l1.qcow2; printf '\2' | dd of=l1.qcow2 bs=1 seek=196614 conv=notrunc 2>/dev/null
		sh cp whole.qcow2 l2.qcow2; printf '\2' | dd of=l2.qcow2 bs=1 seek=262158 conv=notrunc 2>/dev/null
		sh cp whole.qcow2 comp.qcow2; printf '\377' | dd of=comp.qcow2 bs=1 seek=327680 conv=notrunc 2>/dev/null
		compare whole.qcow2 l1.qcow2
		compare l1.qcow2 whole.qcow2
		compare -s l1.qcow2 whole.qcow2
		compare -q l2.qcow2 whole.qcow2
		compare whole.qcow2 comp.qcow2
		compare comp.qcow2 comp.qcow2
		compare -s comp.qcow2 whole.qcow2
	`)
}
