package main

import "testing"

func TestBitmap(t *testing.T) {
	p := newPair(t)
	p.script(`
		create -q -f qcow2 x 10M
		create -q -f qcow2 y 10M
		create -q -f qcow2 -o compat=v2 v2 1M
		create -q -f raw r.raw 1M
		create -q -f qed e.qed 1M
		bitmap
		bitmap x
		bitmap x b0
		bitmap --add x
		bitmap --add a b c
		bitmap --add nosuch b0
		bitmap --add r.raw b0
		bitmap --add e.qed b0
		bitmap --add v2 b0
		bitmap --add x ''
		bitmap --add -g 3k x b0
		bitmap --add -g 1 x b0
		bitmap --add -g 4G x b0
		bitmap --add -g x x b0
		bitmap --add -U x b0
		bitmap --add x b0
		look info x
		look info --output=json x
		bitmap --add x b0
		bitmap --add -g 32k x b1
		bitmap --add -g 0 x b2
		bitmap --add --disable x b3
		look info x
		look check x
		io -f qcow2 x -c 'write -P 1 0 1M' -c 'write -P 2 5M 64k' -c 'discard 9M 64k'
		bitmap --enable x b3
		bitmap --disable x nosuch
		bitmap --remove x nosuch
		bitmap -g 64k --clear x b0
		bitmap --merge b0 x b3
		bitmap --merge nosuch x b3
		bitmap --add --merge b1 x b4
		bitmap --remove x b1
		bitmap --clear x b2
		bitmap --clear --disable x b4
		bitmap --add --remove x n
		bitmap --add -F qcow2 y c1
		bitmap -b x y c0
		bitmap -b x --add y c0
		bitmap -b x --merge b3 x b0
		bitmap --add -b x -F qcow2 --merge b3 y c0
		bitmap --image-opts --add driver=qcow2,file.filename=y z
		bitmap -f qcow2 --add y zz
		look info --output=json x
		look info --output=json y
		look check x
		look check y
		same x
		same y
		convert --bitmaps -O qcow2 x z
		look info --output=json z
		same z
		convert --bitmaps -c -O qcow2 x z
		look info --output=json z
		same z
		convert --bitmaps --skip-broken-bitmaps -O qcow2 x z
		convert --bitmaps -n -O qcow2 x z
		convert --bitmaps -O raw x z
		convert --bitmaps -O qcow2 -o compat=v2 x z
		convert --bitmaps -O qcow2 r.raw z
		convert --skip-broken-bitmaps -O qcow2 x z
		convert --bitmaps -O qcow2 x x z
	`)
}
