package main

import "testing"

// Subclusters that nothing was written to have a place all the same where
// their cluster has one.
func TestMapSubclusters(t *testing.T) {
	p := newPair(t)
	p.script(`
		create -q -f qcow2 -o extended_l2=on base.qcow2 512k
		io -f qcow2 base.qcow2 -c 'write -P 9 0 128k' -c 'write -P 9 192k 2k' -c 'write -z 200k 4k'
		create -q -f qcow2 -o extended_l2=on,preallocation=metadata alone.qcow2 1M
		io -f qcow2 alone.qcow2 -c 'write -P 1 0 4k' -c 'write -z 8k 4k' -c 'write -P 2 64k 2k' -c 'discard 128k 64k' -c 'write -z 192k 64k'
		create -q -f qcow2 -o extended_l2=on,preallocation=metadata -b base.qcow2 -F qcow2 over.qcow2 1M
		io -f qcow2 over.qcow2 -c 'write -P 1 0 4k' -c 'write -z 8k 4k' -c 'write -P 3 256k 2k' -c 'write -P 4 520k 3k'
		create -q -f qcow2 -o extended_l2=on,preallocation=metadata -b over.qcow2 -F qcow2 top.qcow2 2M
		create -q -f qcow2 -o extended_l2=on,preallocation=metadata,data_file=d.raw data.qcow2 1M
		io -f qcow2 data.qcow2 -c 'write -P 1 66k 4k'
		create -q --object secret,id=s,data=abc -f qcow2 -o extended_l2=on,encrypt.format=aes,encrypt.key-secret=s aes.qcow2 1M
		io --object secret,id=s,data=abc --image-opts driver=qcow2,encrypt.key-secret=s,file.filename=aes.qcow2 -c 'write -P 1 64k 4k'
		sh sync -d *.qcow2 d.raw
		look map --output=json --object secret,id=s,data=abc --image-opts driver=qcow2,encrypt.key-secret=s,file.filename=aes.qcow2
		look compare -s alone.qcow2 over.qcow2
		look compare -s over.qcow2 top.qcow2
		look map --output=json -s 70k -l 500k over.qcow2
	`)
	for _, image := range []string{"base.qcow2", "alone.qcow2", "over.qcow2", "top.qcow2", "data.qcow2"} {
		p.script("look map " + image + "\nlook map --output=json " + image)
	}
}
