package main

import (
	"regexp"
	"testing"
)

func TestResize(t *testing.T) {
	p := newPair(t)
	p.script(`
		create -q -f qcow2 y 1M
		io -f qcow2 y -c 'write -P 1 0 1M'
		create -q -f qcow2 -b y -F qcow2 o
		resize
		resize y
		resize y 2M
		same y
		resize y +1M
		same y
		resize y -1M
		resize --shrink y -1M
		same y
		resize y 1M
		resize y --shrink 512k
		same y
		resize y 512k
		resize y +0
		resize y x
		resize y +x
		resize y --5M
		resize y ''
		resize -q y 3M
		resize o 2M
		same o
		resize --preallocation=metadata y 4M
		same y
		resize --preallocation=falloc y 5M
		same y
		resize --preallocation full y 6M
		same y
		resize --preallocation=foo y 7M
		resize --preallocation=metadata --shrink y 1M
		resize nosuch 1M
		resize --image-opts driver=qcow2,file.filename=y 8M
		same y
		resize y 1M 2M
		resize y 9M --shrink
		resize --shrink y -8M
		resize --shrink y -100M
		resize y 100P
		resize y 8999999
		resize -f qcow2 y 8999424
		look check y
		look info --output=json y
		create -q -f qcow2 -o compat=v2 v2 1M
		snapshot -c a v2
		resize v2 2M
		create -q -f raw r 1M
		resize r 2M
		cmp r
		resize -f raw r +1
		cmp r
		resize -f raw r 3000001
		cmp r
		resize -f raw r 1M
		resize -f raw --shrink r 1M
		cmp r
		resize -f raw --preallocation=full r 2M
		cmp r
		resize -f raw --preallocation=falloc r 3M
		cmp r
		resize -f raw --preallocation=metadata r 4M
		create -q -f qed e 1M
		resize e 2M
		same e
		resize --shrink e 1M
		resize --preallocation=full e 4M
		create -q -f qcow2 -o data_file=d x 1M
		io -f qcow2 x -c 'write -P 1 0 1M'
		resize x 2M
		same x
		cmp d
		resize --shrink x 512k
		same x
		cmp d
	`)
}

// chain makes top on over on base.
const chain = `
	create -q -f qcow2 base 1M
	io -f qcow2 base -c 'write -P 1 0 700k'
	create -q -f qcow2 other 2M
	io -f qcow2 other -c 'write -P 1 0 300k' -c 'write -P 5 1M 64k'
	create -q -f raw r.raw 1M
	io -f raw r.raw -c 'write -P 6 500k 100k'
	create -q -f qcow2 -b base -F qcow2 over 2M
	io -f qcow2 over -c 'write -P 2 100k 100k' -c 'write -z 400k 200k' -c 'write -P 3 1900k 64k'
	create -q -f qcow2 -b over -F qcow2 top
	io -f qcow2 top -c 'write -P 4 150k 10k' -c 'discard 0 64k'
`

func TestCommit(t *testing.T) {
	p := newPair(t)
	p.script(chain)
	p.script(`
		commit
		commit a b
		commit nosuch
		commit base
		commit -t foo over
		commit -r x over
		commit -b nosuch top
		commit -b top top
		commit r.raw
		commit --bad over
		commit --image-opts -f qcow2 driver=qcow2,file.filename=top
		commit top
		same top
		same over
		look map top
		io -f qcow2 top -c 'write -P 7 0 10k'
		commit -d top
		same top
		same over
		io -f qcow2 top -c 'write -P 8 0 20k'
		commit -q -r 100M top
		same over
		io -f qcow2 top -c 'write -P 9 1M 20k'
		commit --image-opts driver=qcow2,file.filename=top
		same over
		io -f qcow2 top -c 'write -P 9 1M 20k'
		commit -b base top
		same top
		same over
		same base
		create -q -f qcow2 -b r.raw -F raw onraw 2M
		io -f qcow2 onraw -c 'write -P 7 10k 10k' -c 'write -P 7 1500k 10k'
		commit onraw
		same onraw
		cmp r.raw
	`)
}

func TestRebase(t *testing.T) {
	p := newPair(t)
	p.script(chain)
	p.script(`
		rebase
		rebase a b
		rebase over
		rebase -F qcow2 over
		rebase -b other over
		rebase -t foo -b other over
		rebase -T foo -b other over
		rebase -b other -F foo over
		rebase -b nosuch -F qcow2 over
		rebase -f raw -b other -F qcow2 over
		rebase -b other -F qcow2 r.raw
		rebase -b over -F qcow2 over
		rebase -b other -F qcow2 over
		same over
		look info over
		rebase -q -b r.raw -F raw over
		same over
		look info --output=json over
		rebase -b base -F qcow2 top
		same top
		look info top
		rebase -b '' top
		same top
		look info top
		rebase -b over -F qcow2 top
		same top
		rebase -u -b nosuch -F qcow2 top
		look info top
		rebase -b base -F qcow2 top
		rebase -u -b base top
		rebase -u -b base -F qcow2 top
		same top
		rebase -u -b '' top
		same top
		look info top
		rebase -u top
		rebase -U -b base -F qcow2 top
		same top
		rebase --image-opts driver=qcow2,file.filename=top -b over -F qcow2
		same top
		look check top
	`)
}

// QED stores no format of a backing file but raw.
func TestQEDLayers(t *testing.T) {
	p := newPair(t)
	p.script(chain)
	p.script(`
		create -q -f qed -b base -F qcow2 e 2M
		io -f qed e -c 'write -P 2 100k 100k' -c 'write -z 400k 64k' -c 'write -P 3 1900k 64k'
		create -q -f qed -b r.raw -F raw f
		io -f qed f -c 'write -P 2 100k 100k'
		rebase -b other -F qcow2 e
		same e
		look info e
		rebase -b r.raw -F raw e
		same e
		look info --output=json e
		rebase -u -b other -F qcow2 e
		same e
		rebase -b '' e
		same e
		look info e
		rebase -b base -F qcow2 e
		same e
		commit e
		same e
		same base
		commit -d f
		same f
		cmp r.raw
		create -q -f qed -b base -F qcow2 g
		io -f qed g -c 'write -P 9 1k 1k'
		create -q -f qcow2 -b g -F qed h
		io -f qcow2 h -c 'write -P 8 3k 1k'
		commit h
		same g
		same h
		commit g
		same base
		io -f qcow2 h -c 'write -P 7 3k 1k'
		commit -b base h
		same base
		same h
	`)
}

func TestDD(t *testing.T) {
	p := newPair(t)
	p.script(chain)
	p.script(`
		dd
		dd if=over
		dd of=z
		dd if=over of=z foo=1
		dd if=over of=z bs
		dd if=over of=z bs=0
		dd if=over of=z bs=x
		dd if=over of=z bs=3G
		dd if=over of=z count=x
		dd if=over of=z skip=-1
		dd if=nosuch of=z
		dd -f foo if=over of=z
		dd -O foo if=over of=z
		dd -n if=over of=z
		dd if=over of=/nosuch/z
		dd if=over of=over
		dd if=over of=z
		cmp z
		dd if=over of=z bs=1M
		cmp z
		dd if=over of=z bs=64k count=3
		cmp z
		dd if=over of=z bs=64k count=3 skip=2
		cmp z
		dd if=over of=z bs=64k count=30 skip=2
		cmp z
		dd if=over of=z bs=64k skip=4
		cmp z
		dd if=over of=z bs=64k skip=100
		cmp z
		dd if=over of=z bs=1000 count=1
		cmp z
		dd if=over of=z count=0
		cmp z
		dd if=over of=z bs=1k count=1k
		cmp z
		dd if=over of=z bs=100 count=3 skip=1
		cmp z
		dd -f qcow2 -O qcow2 if=over of=z bs=64k
		same z
		dd -O qed if=over of=z bs=64k
		same z
		dd -U if=top of=z
		cmp z
		dd --image-opts if=driver=qcow2,file.filename=over of=z
		cmp z
	`)
}

func TestBench(t *testing.T) {
	p := newPair(t)
	p.ignore = regexp.MustCompile(`completed in [0-9.]+ seconds`)
	p.script(chain)
	p.script(`
		bench
		bench a b
		bench nosuch
		bench -f foo over
		bench -c x over
		bench -c -1 over
		bench -d x over
		bench -s x over
		bench -S x over
		bench -o x over
		bench -t foo over
		bench -i foo over
		bench -n -c 10 over
		bench -w -c 10 --pattern=300 over
		bench -w -c 10 --pattern=x over
		bench -w -c 10 --flush-interval=x over
		bench -w -c 10 --flush-interval=3 over
		bench -c 10 --flush-interval=3 over
		bench -w -U -c 1 over
		bench -c 10 -s 3M over
		bench -o 10M -c 2 over
		bench -c 100 over
		bench -c 0 over
		bench -c 10 -s 0 over
		bench -S 0 -c 5 over
		bench -c 100 -d 4 -s 64k -S 128k -o 1k -q over
		bench -U -c 10 over
		bench -f raw -c 10 over
		bench --image-opts -c 10 driver=qcow2,file.filename=over
		bench -w -c 1000 -d 1 --pattern=5 over
		same over
		bench -w -c 100 -d 4 --flush-interval=10 --pattern 6 over
		bench -w -c 100 -d 4 --flush-interval=10 --no-drain --pattern 7 over
	`)
}
