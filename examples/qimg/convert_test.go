package main

import "testing"

func TestConvert(t *testing.T) {
	p := newPair(t)
	p.script(images)
	p.script(`
		convert
		convert base.qcow2
		convert -O qcow2 -o help
		convert -O qcow2 -o help base.qcow2 z
		convert -O foo base.qcow2 z
		convert -O vma base.qcow2 z2
		convert -f foo base.qcow2 z
		convert nosuch z
		convert lost.qcow2 z
		convert -O raw base.qcow2 /nosuch/z
		convert -O qcow2 -o foo=1 base.qcow2 z
		convert -c -O raw base.qcow2 z
		convert -c -O qed base.qcow2 z
		convert -m 0 base.qcow2 z
		convert -m 17 base.qcow2 z
		convert -m x base.qcow2 z
		convert -S 1 base.qcow2 z
		convert -S x base.qcow2 z
		convert -S 32M base.qcow2 z
		convert -t foo base.qcow2 z
		convert -T foo base.qcow2 z
		convert -r x base.qcow2 z
		convert -C -S 4k base.qcow2 z
		convert -B over.qcow2 -F qcow2 base.qcow2 z
		convert -O raw -B r.raw -F raw base.qcow2 z
		convert -O qcow2 -B r.raw base.qcow2 z
		convert -O qcow2 -F raw base.qcow2 z
		convert -O qcow2 -B nosuch -F raw base.qcow2 z
		convert -O qcow2 -B r.raw -F raw base.qcow2 base.qcow2 z
		convert --target-is-zero base.qcow2 z
		convert --target-image-opts base.qcow2 driver=raw,file.filename=z
		convert --image-opts -f qcow2 base.qcow2 z
		convert -n -o size=1 base.qcow2 z
		convert -n -O raw base.qcow2 nosuch
		convert -n -O raw base.qcow2 r.raw
		convert -n -O qcow2 base.qcow2 r.raw
		convert -O qcow2 base.qcow2 base.qcow2
		convert -O raw over.qcow2 base.qcow2
		convert -O qcow2 -c -o preallocation=metadata base.qcow2 z
		convert --bad base.qcow2 z

		convert base.qcow2 z.raw
		cmp z.raw
		convert -q -p -O raw over.qcow2 z.raw
		cmp z.raw
		convert -W -m 16 top.qcow2 z.raw
		cmp z.raw
		convert -S 0 -O raw over.qcow2 z.raw
		cmp z.raw
		convert -S 3k -O raw over.qcow2 z.raw
		cmp z.raw
		convert -S 16M -O raw over.qcow2 z.raw
		cmp z.raw
		convert -C -O raw full.raw z.raw
		cmp z.raw
		convert -t none -T none -O raw onraw.qcow2 z.raw
		cmp z.raw
		convert -t writethrough over.qcow2 z.raw
		cmp z.raw
		convert -r 100M base.qcow2 z.raw
		cmp z.raw
		convert -U base.qed z.raw
		cmp z.raw
		convert -o preallocation=full base.qed z.raw
		cmp z.raw
		convert --salvage base.qcow2 z.raw
		cmp z.raw
		convert -o size=1M base.qcow2 z.raw
		cmp z.raw
		convert odd.raw z.raw
		cmp z.raw
		convert empty.raw z.raw
		cmp z.raw
		convert -f raw base.qcow2 z.raw
		cmp z.raw
		convert r.raw odd.raw r.raw z.raw
		cmp z.raw
		convert base.qcow2 over.qcow2 base.qed z.raw
		cmp z.raw
		convert --image-opts driver=qcow2,file.filename=over.qcow2 z.raw
		cmp z.raw
		convert --object secret,id=s,data=abc --image-opts driver=qcow2,encrypt.key-secret=s,file.filename=aes.qcow2 z.raw
		cmp z.raw
		convert 'json:{"driver":"raw","offset":512,"file.filename":"full.raw"}' z.raw
		cmp z.raw
		convert data.qcow2 z.raw
		cmp z.raw
	`)
	t.Logf("%d lines", p.lines)
}

func TestConvertToImages(t *testing.T) {
	p := newPair(t)
	p.script(images)
	for _, source := range []string{
		"r.raw", "odd.raw", "full.raw", "base.qcow2", "over.qcow2", "top.qcow2", "base.qed", "v2.qcow2", "meta.qcow2", "small.qcow2", "ext.qcow2",
		"comp.qcow2", "zstd.qcow2",
	} {
		p.script("convert -O qcow2 " + source + " z\nsame z\nlook check -q z\nconvert -c -O qcow2 " + source + " z\nsame z")
	}
	p.script(`
		convert -O qed over.qcow2 z
		same z
		convert -O qed -o cluster_size=4k full.raw z
		same z
		convert -O qed -B r.raw -F raw onraw.qcow2 z
		same z
		convert -O qcow2 -o compat=v2 over.qcow2 z
		same z
		convert -O qcow2 -o compat=v2 -c over.qcow2 z
		same z
		convert -O qcow2 -o cluster_size=512 full.raw z
		same z
		convert -O qcow2 -o cluster_size=2M,refcount_bits=1 -c full.raw z
		same z
		convert -O qcow2 -o compression_type=zstd -c over.qcow2 z
		same z
		convert -O qcow2 -o extended_l2=on over.qcow2 z
		same z
		convert -O qcow2 -o preallocation=metadata over.qcow2 z
		same z
		convert -O qcow2 -o preallocation=full full.raw z
		same z
		convert -O qcow2 -o preallocation=falloc over.qcow2 z
		same z
		convert -O qcow2 -S 0 over.qcow2 z
		same z
		convert -O qcow2 -o data_file=z.data over.qcow2 z
		same z
		convert -O qcow2 -o data_file=z.data,data_file_raw=on over.qcow2 z
		same z
		cmp z.data
		convert -O qcow2 -c -o data_file=z.data over.qcow2 z
		convert -O qcow2 -o lazy_refcounts=on over.qcow2 z
		same z
		convert -t writeback -W -m 4 -O qcow2 over.qcow2 z
		same z
		convert --salvage -O qcow2 over.qcow2 z
		same z
		convert -O qcow2 -o size=1M over.qcow2 z
		same z
		convert -O qcow2 over.qcow2 r.raw top.qcow2 z
		same z
		convert --object secret,id=s,data=abc -O qcow2 -o encrypt.format=aes,encrypt.key-secret=s over.qcow2 z
		compare --object secret,id=s,data=abc --image-opts driver=qcow2,encrypt.key-secret=s,file.filename=z driver=qcow2,file.filename=over.qcow2
		convert --object secret,id=s,data=abc -O qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 over.qcow2 z
		look compare --object secret,id=s,data=abc --image-opts driver=qcow2,encrypt.key-secret=s,file.filename=z driver=qcow2,file.filename=over.qcow2
		convert --object secret,id=s,data=abc -c -O qcow2 -o encrypt.format=luks,encrypt.key-secret=s over.qcow2 z
		convert -O qcow2 -o encrypt.format=luks over.qcow2 z

		convert -O qcow2 -B base.qcow2 -F qcow2 over.qcow2 z
		same z
		look info z
		convert -O qcow2 -o backing_file=base.qcow2,backing_fmt=qcow2 over.qcow2 z
		same z
		convert -O qcow2 -o backing_file=base.qcow2 -F qcow2 over.qcow2 z
		same z
		convert -c -O qcow2 -B base.qcow2 -F qcow2 over.qcow2 z
		same z
		convert -O qcow2 -B over.qcow2 -F qcow2 top.qcow2 z
		same z
		convert -O qcow2 -B r.raw -F raw onraw.qcow2 z
		same z
		convert -O qcow2 -B full.raw -F raw comp.qcow2 z
		same z
		convert -O qcow2 -B full.raw -F raw -o compat=v2 comp.qcow2 z
		same z
		convert -O qcow2 -B full.raw -F raw -o data_file=z.data comp.qcow2 z
		same z

		create -q -f qcow2 z 20M
		io -f qcow2 z -c 'write -P 1 0 20M'
		convert -n -O qcow2 over.qcow2 z
		same z
		convert -n -O qcow2 base.qcow2 z
		same z
		create -q -f qcow2 z 10M
		convert -n -c -O qcow2 over.qcow2 z
		same z
		convert -n -c -O qcow2 over.qcow2 z
		create -q -f qcow2 z 10M
		convert -n --target-is-zero -O qcow2 over.qcow2 z
		same z
		convert -n --target-image-opts over.qcow2 driver=qcow2,file.filename=z
		same z
		create -q -f raw z.raw 12M
		io -f raw z.raw -c 'write -P 1 0 12M'
		convert -n top.qcow2 z.raw
		cmp z.raw
		create -q -f qed z 12M
		io -f qed z -c 'write -P 1 0 12M'
		convert -n -O qed top.qcow2 z
		same z
		convert -n -O raw -S 0 over.qcow2 z.raw
		cmp z.raw
	`)
	t.Logf("%d lines", p.lines)
}
