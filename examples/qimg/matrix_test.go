package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// Command lines, good and bad, of what the other tests do not reach: options of
// images, images in images, cache modes, secrets, names.
func TestMatrix(t *testing.T) {
	p := newPair(t)
	p.ignore = regexp.MustCompile(`disk size: .*`)
	p.script(`
		create -q -f qcow2 base.qcow2 4M
		io -f qcow2 base.qcow2 -c 'write -P 1 0 1M' -c 'write -P 2 2M 100k' -c 'write -z 3M 64k'
		create -q -f qcow2 -b base.qcow2 -F qcow2 over.qcow2
		io -f qcow2 over.qcow2 -c 'write -P 3 512k 64k' -c 'write -z 0 64k'
		create -q -f raw r.raw 2M
		io -f raw r.raw -c 'write -P 5 64k 64k' -c 'write -P 9 1M 4k'
		create -q -f qcow2 snap.qcow2 1M
		snapshot -c one snap.qcow2
		create -q -f qcow2 bm.qcow2 1M
		bitmap --add -g 32k bm.qcow2 b0
		create -q -f qcow2 -o compat=0.10 v2.qcow2 1M
		sh mkdir dir
		sh ln -s nosuch dangling
	`)
	for _, opts := range []string{
		"", ",lazy-refcounts=on", ",lazy-refcounts=maybe", ",cache-size=1M", ",cache-size=x", ",read-only=on", ",read-only=maybe", ",cache.direct=maybe", ",discard=unmap",
		",discard=x", ",detect-zeroes=x", ",file.aio=x", ",file.aio=native", ",file.locking=x", ",file.locking=off", ",overlap-check=x", ",overlap-check=none", ",foo=bar",
		",file.foo=bar", ",encrypt.format=luks", ",file.driver=file", ",file.driver=nosuch",
	} {
		p.script("check --image-opts driver=qcow2,file.filename=base.qcow2" + opts)
	}
	p.script(`
		info -f '' base.qcow2
		info 'json:{"driver":"raw","offset":65536,"size":65536,"file":{"driver":"file","filename":"r.raw"}}'
		info --image-opts driver=raw,offset=64k,size=64k,file.filename=r.raw
		info --image-opts driver=qcow2,file.driver=raw,file.offset=0,file.file.filename=base.qcow2
		info --image-opts driver=raw,offset=0,size=1,file.filename=r.raw
		info --image-opts driver=raw,offset=3M,file.filename=r.raw
		info --image-opts driver=raw,offset=1M,size=2M,file.filename=r.raw
		info --image-opts driver=qcow2,file.driver=qcow2,file.file.filename=base.qcow2
		map --output=json --image-opts driver=raw,file.driver=qcow2,file.file.filename=base.qcow2
		map --output=json --image-opts driver=raw,offset=64k,size=64k,file.filename=r.raw
		map --output=json --image-opts driver=qcow2,file.filename=over.qcow2,backing.driver=raw,backing.file.filename=r.raw
		convert --image-opts driver=raw,file.driver=qcow2,file.file.filename=base.qcow2 z
		cmp z
		convert --image-opts driver=raw,offset=64k,size=1M,file.filename=r.raw z
		cmp z
		convert 'json:{"driver":"qcow2","backing":null,"file":{"driver":"file","filename":"over.qcow2"}}' z
		cmp z
		resize --image-opts driver=raw,offset=64k,size=64k,file.filename=r.raw 4M
		resize -q --image-opts driver=raw,offset=64k,file.filename=r.raw 4M
		cmp r.raw
		resize base.qcow2 9E
		resize base.qcow2 +8E
		check -U -r all base.qcow2
		snapshot snap.qcow2
		snapshot -a nosuch snap.qcow2
		measure -O vmdk base.qcow2
		measure --size 1G -O qcow2 -o encrypt.format=aes
		measure --size 1G -O qcow2 -o data_file=foo,data_file_raw=on
		measure --size 7E -O qcow2
		convert --bitmaps -O qcow2 v2.qcow2 z2
		convert -t foo base.qcow2 z3
		bitmap --add --disable --remove bm.qcow2 b9
		bitmap --disable --add bm.qcow2 b9
		bitmap --add -g 3k bm.qcow2 b9
		bitmap --add bm.qcow2 ''
		bitmap --merge nosuch bm.qcow2 b0
		bitmap --add --merge b0 -b r.raw -F raw base.qcow2 new
		info base.qcow2
		bitmap --remove base.qcow2 new

		create -f qcow2 -o lazy_refcounts=yes n1 1M
		create -f qcow2 -o refcount_bits=010 n2 1M
		create -f qcow2 -o nolazy_refcounts n3 1M
		create -f raw -o nocow=on n4 1M
		create -f qcow2 -o nocow=on,extent_size_hint=2M n5 1M
		create -f qcow2 dangling 1M
		cmp n1
		cmp n2
		cmp n3
		cmp n4
		cmp n5
		cmp dangling
	`)
	for _, bad := range []string{
		"''", ",", ",size=1M", "size=1M,", "compat=", "preallocation=", "extent_size_hint=8G", "cluster_size=256", "cluster_size=4M", "refcount_bits=3", "refcount_bits=-1",
		"compat=0.10,refcount_bits=1", "compat=0.10,lazy_refcounts=on", "compat=0.10,extended_l2=on", "compat=0.10,compression_type=zstd", "compat=0.10,data_file=d",
		"extended_l2=on,cluster_size=8k", "data_file=", "data_file=/nosuch/d", "data_file=n", "encrypt.cipher-alg=aes-256", "encrypt.format=luks,encrypt.cipher-alg=x",
		"encrypt.format=luks,encrypt.hash-alg=x", "data_file=d,data_file_raw=on,backing_file=r.raw,backing_fmt=raw",
	} {
		p.script("create -q --object secret,id=s,data=x -f qcow2 -o " + bad + " n 1M\nsh ! test -e n")
	}
	p.script(`
		create -f qcow2 n 7E
		create -q -f raw -o preallocation=foo n 1M
		create -q --object secret,id=s,data=x --object secret,id=s,data=y n 1M
		create -q --object secret,id=1s,data=x n 1M
		sh ! test -e n
		create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2
		commit -b $PWD/nosuch top.qcow2
		rebase -u -b x.vmdk -F vmdk top.qcow2
		info top.qcow2
	`)
}

// Every cache mode makes the same image, of a source whose size is odd where the
// page cache is used: past it qemu-img makes files of whole blocks, which some
// file systems have of 512 bytes and others of 4 KiB.
func TestCacheModes(t *testing.T) {
	p := newPair(t)
	p.script("sh seq 1 150000 > odd.raw; head -c 917504 odd.raw > even.raw\ncreate -q -f qcow2 over 2M")
	for _, mode := range []string{"none", "off", "directsync", "writethrough", "writeback", "unsafe"} {
		source, size := "odd.raw", "1000448"
		if mode == "none" || mode == "off" || mode == "directsync" {
			source, size = "even.raw", "1003520"
		}
		for _, format := range []string{"raw", "qcow2", "qed"} {
			p.script("convert -f raw -t " + mode + " -T " + mode + " -O " + format + " " + source + " z." + format)
		}
		p.script(`
			cmp z.raw
			same z.qcow2
			same z.qed
			check -T ` + mode + ` z.qcow2
			compare -T ` + mode + ` -f raw ` + source + ` z.qcow2
			create -q -f qcow2 -b z.raw -F raw over ` + size + `
			io -f qcow2 over -c 'write -P 1 77k 100k'
			commit -q -t ` + mode + ` over
			cmp z.raw
			amend -q -t ` + mode + ` -o refcount_bits=32 z.qcow2
			rebase -q -t ` + mode + ` -T ` + mode + ` -b z.qed -F qed over
			same over
		`)
	}
}

// What cannot be made leaves what was there as it was, and nothing else.
func TestNothingIsLeft(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("precious", []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"create -f qcow2 -o refcount_bits=3 precious 1M", "create -f qcow2 precious 7E", "create -f raw -o preallocation=metadata precious 1M",
		"create -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.cipher-alg=x precious 1M", "create -f qcow2 -o extent_size_hint=8G precious 1M",
		"create -f qcow2 -o data_file=/nosuch/d new 1M", "create -f qed -o table_size=3 new 1M", "create -f qcow2 -o data_file=new new 1M",
		"convert -f raw -O qcow2 -t foo precious new", "convert -f raw -O qcow2 -o cluster_size=3k precious new", "convert -f raw precious nbd://localhost/x",
	} {
		if out, code := qimg(t, line); code != 1 {
			t.Errorf("%s: exit code %d\n%s", line, code, out)
		}
	}
	if b, err := os.ReadFile("precious"); err != nil || string(b) != "data" {
		t.Errorf("%q, %v", b, err)
	}
	if all, err := os.ReadDir("."); err != nil || len(all) != 1 {
		t.Errorf("%v, %v", all, err)
	}
}

// commit takes the time that its rate allows, and finds its base by any path.
func TestCommitRate(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, line := range []string{"create -q -f qcow2 base 1M", "create -q -f qcow2 -b base -F qcow2 over", "bench -q -w -c 8 -s 64k --pattern=1 over"} {
		if out, code := qimg(t, line); code != 0 {
			t.Fatal(out)
		}
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if out, code := qimg(t, "commit -r 2M -b "+dir+"/base over"); code != 0 || !strings.Contains(out, "Image committed.") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	// The first piece waits for nobody.
	if took := time.Since(start); took < 50*time.Millisecond {
		t.Errorf("512 KiB took %v at 2 MiB a second", took)
	}
	if out, code := qimg(t, "compare base over"); code != 0 {
		t.Error(out)
	}
}
