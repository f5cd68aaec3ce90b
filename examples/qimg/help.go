package main

import (
	"fmt"
	"io"
)

const helpAbove = `usage: qimg [-h | -V] COMMAND [OPTIONS]
Works on disk images, as qemu-img does.

    -h, --help       print this and exit
    -V, --version    print the version and exit

Commands:
`

const helpBelow = `
What the words stand for:
  FILE      the name of an image: a path, "file:" and a path, "json:" and an object,
            "vma:DEVICE:ARCHIVE", or with --image-opts a list of options
  FORMAT    qcow2, qed, raw or vma; found out where it is not given
  SIZE      bytes, with a suffix k, M, G, T, P or E for powers of 1024
  OUTPUT    human or json
  CACHE     none, writeback, writethrough, directsync or unsafe
  OPTIONS   NAME=VALUE,... ; -o help lists those of a format
  OBJECT    a passphrase: secret,id=ID,data=TEXT or secret,id=ID,file=PATH, with format=base64
            where it is encoded

Options that commands share:
  -f, -F, -O  the format of the first or only image, of the second or backing one, of the target
  -p          show progress
  -q          print nothing but errors
  -U          read an image also while another program writes it
  -t, -T      how the target and the source are cached

create:   -b names a backing file, which -u keeps from being looked at
check:    -r repairs leaked clusters, or all that is wrong
compare:  -s minds sizes and what is stored, too
convert:  -c compresses, -n takes a target that is there, -S is how long zeros must be to
          be left out (0: none are), -m how much is done at a time, -W lets writes be out of order
`

// help prints the help.
func (c *command) help() {
	io.WriteString(c.stdout, version)
	io.WriteString(c.stdout, helpAbove)
	for _, s := range subcommands() {
		fmt.Fprintf(c.stdout, "  %s %s\n", s.name, s.synopsis)
	}
	io.WriteString(c.stdout, helpBelow)
}
