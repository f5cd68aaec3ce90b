package difftest

import (
	"encoding/hex"
	"regexp"
	"strconv"
	"strings"
)

var hexLine = regexp.MustCompile(`(?m)^([0-9a-f]{8,}):  ((?:[0-9a-f]{2} ){1,16})`)

// HexDumps takes apart what qemu-io prints for "read -v" of sectors, and
// returns those that it could read, by their offset.
func HexDumps(out []byte) map[int64][]byte {
	const sector = 512
	all := map[int64][]byte{}
	var at int64
	for _, m := range hexLine.FindAllSubmatch(out, -1) {
		off, err := strconv.ParseInt(string(m[1]), 16, 64)
		if err != nil {
			continue
		}
		if off%sector == 0 {
			at = off
			all[at] = nil
		}
		b, err := hex.DecodeString(strings.ReplaceAll(string(m[2]), " ", ""))
		if err == nil {
			all[at] = append(all[at], b...)
		}
	}
	return all
}
