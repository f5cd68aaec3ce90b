package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
)

const secret = "secret,id=s,data=pass"

// An imageCase is a disk of 1 MiB to run commands on, made by qemu-img from the
// file "base", a raw one of 1 MiB, in the folder of that.
type imageCase struct {
	name, format string
	make         []string // commands of qemu-img
	options      string   // besides the format

	// never and neverRandom begin commands in which QEMU is no model.
	never, neverRandom string
}

func imageCases() []imageCase {
	backed := func(name, format, options, base string) imageCase {
		made := "create -q -f " + format + " -o " + options + "backing_file=" + base + ",backing_fmt=raw disk 1M"
		return imageCase{name: name, format: format, make: []string{made}}
	}
	luks := imageCase{
		name: "luks", format: "qcow2", options: "encrypt.key-secret=s",
		make:        []string{"create -q --object " + secret + " -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 disk 1M"},
		never:       "write -c", // it does not encrypt these
		neverRandom: "reopen",   // takes long
	}
	backedQED := backed("qed with backing", "qed", "cluster_size=4k,", "base")
	backedQED.neverRandom = "write -z" // part of a cluster of zeros that is written makes it show what the backing file holds
	return []imageCase{
		{name: "raw", format: "raw", make: []string{"create -q -f raw disk 1M"}},
		{name: "raw with data", format: "raw", make: []string{"convert -O raw base disk"}},
		{name: "v3", format: "qcow2", make: []string{"create -q -f qcow2 disk 1M"}},
		{name: "v2", format: "qcow2", make: []string{"create -q -f qcow2 -o compat=0.10 disk 1M"}},
		backed("v2 with backing", "qcow2", "compat=0.10,", "base"),
		{name: "chain", format: "qcow2", make: []string{"create -q -f qcow2 -b base -F raw mid 512k", "create -q -f qcow2 -b mid -F qcow2 disk 1M"}},
		backed("clusters of 512", "qcow2", "cluster_size=512,", "base"),
		backed("extended l2", "qcow2", "extended_l2=on,", "base"),
		{name: "zstd", format: "qcow2", make: []string{"convert -c -f raw -O qcow2 -o compression_type=zstd base disk"}},
		{name: "deflate", format: "qcow2", make: []string{"convert -c -f raw -O qcow2 base disk"}},
		{name: "refcounts of 1 bit, lazy", format: "qcow2", make: []string{"convert -f raw -O qcow2 -o refcount_bits=1,lazy_refcounts=on base disk"}},
		{name: "data file", format: "qcow2", make: []string{"create -q -f qcow2 -o data_file=data,data_file_raw=on disk 1M"}, never: "write -b"},
		{name: "bitmaps", format: "qcow2", make: []string{"create -q -f qcow2 disk 1M", "bitmap --add disk one", "bitmap --add --disable disk two"}},
		luks,
		{name: "qed", format: "qed", make: []string{"create -q -f qed disk 1M"}},
		backedQED,
	}
}

// A beside runs commands by qio and by qemu-io, and compares.
type beside struct {
	qemu, img string
	image     imageCase
	dir       string // with the image as it was made
}

func newBeside(t *testing.T, image imageCase) *beside {
	t.Helper()
	b := &beside{difftest.Tool(t, "qemu-io", "7.2"), difftest.Tool(t, "qemu-img", "7.2"), image, t.TempDir()}
	base := make([]byte, 1<<20)
	for i := range base {
		base[i] = byte(i>>16*7) + byte(i>>9)
	}
	clear(base[256<<10 : 300<<10])
	if err := os.WriteFile(filepath.Join(b.dir, "base"), base, 0o666); err != nil {
		t.Fatal(err)
	}
	for _, c := range image.make {
		if out, err := b.imgCommand(b.dir, strings.Fields(c)).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", c, err, out)
		}
	}
	return b
}

// imgCommand returns a command of qemu-img that runs in a folder. Names of
// external data files count from there.
func (b *beside) imgCommand(dir string, args []string) *exec.Cmd {
	cmd := exec.Command(b.img, args...)
	cmd.Dir = dir
	return cmd
}

// copyDir copies the files of the image.
func (b *beside) copyDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(b.dir)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// own is what only this program prints: the sentences of help.
var own = regexp.MustCompile(` -- .*`)

// run runs flags and commands by both programs, in folders of their own. A word
// "$disk" stands for the name of the image; flags get it added unless they begin
// with "none".
func (b *beside) run(t *testing.T, flags string, script []string) {
	t.Helper()
	for range 5 { // qemu-io crashes now and then, on images of the format qed
		if b.tryRun(t, flags, script) {
			return
		}
	}
	t.Errorf("%s %q: qemu-io crashes", flags, script)
}

// tryRun does what run does, unless qemu-io crashes, which it reports.
func (b *beside) tryRun(t *testing.T, flags string, script []string) bool {
	t.Helper()
	dirs := [2]string{b.copyDir(t), b.copyDir(t)}
	var out [2]string
	var code [2]int
	for i, dir := range dirs {
		disk := filepath.Join(dir, "disk")
		args := strings.Fields(strings.ReplaceAll(flags, "$disk", disk))
		if len(args) > 0 && args[0] == "none" {
			args = args[1:]
		} else {
			args = append(args, b.name(disk)...)
		}
		for _, c := range script {
			args = append(args, "-c", strings.ReplaceAll(c, "$disk", disk))
		}
		cmd := exec.Command(b.qemu, args...)
		if i == 1 { // not in this process, which forks while images are locked
			cmd = self(args...)
		}
		cmd.Dir = dir
		o, _ := cmd.Output()
		out[i], code[i] = timing.ReplaceAllString(string(o), "TIMING"), cmd.ProcessState.ExitCode()
		out[i] = strings.ReplaceAll(out[i], "read [-abC", "read [-bC") // neither takes -a
		out[i] = own.ReplaceAllString(strings.ReplaceAll(out[i], dir, ""), "")
	}
	if code[0] < 0 {
		return false
	}
	if out[0] != out[1] || code[0] != code[1] {
		t.Errorf("%s %q: exit code %d, qemu-io %d; %s", flags, script, code[1], code[0], firstDifference(out[1], out[0]))
	}
	b.compare(t, dirs, fmt.Sprintf("%s %q", flags, script))
	return true
}

// firstDifference tells where what was printed differs.
func firstDifference(got, want string) string {
	a, b := strings.Split(got, "\n"), strings.Split(want, "\n")
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return fmt.Sprintf("after %q:\n%q\nqemu-io:\n%q", a[max(0, n-2):n], a[n:min(n+4, len(a))], b[n:min(n+4, len(b))])
}

// name returns the arguments that name an image.
func (b *beside) name(disk string) []string {
	if b.image.options == "" {
		return []string{"-f", b.image.format, disk}
	}
	return []string{"--object", secret, "--image-opts", "driver=" + b.image.format + ",file.filename=" + disk + "," + b.image.options}
}

// compare holds that both images hold the same, and that ours has no error.
func (b *beside) compare(t *testing.T, dirs [2]string, what string) {
	t.Helper()
	first, second := b.name(filepath.Join(dirs[0], "disk")), b.name(filepath.Join(dirs[1], "disk"))
	args := append(append([]string{"compare"}, first...), second[len(second)-1])
	if b.image.options == "" {
		args = append(args, "-F", b.image.format)
	}
	if out, err := b.imgCommand(dirs[0], args).CombinedOutput(); err != nil {
		t.Errorf("%s: %s", what, out)
	}
	if b.image.format == "raw" {
		return
	}
	args = append([]string{"check"}, second...)
	if out, err := b.imgCommand(dirs[1], args).CombinedOutput(); err != nil {
		t.Errorf("%s: %s", what, out)
	}
	for _, name := range []string{"base", "mid"} { // nothing writes to these
		was, err := os.ReadFile(filepath.Join(b.dir, name))
		if err != nil {
			continue
		}
		if is, err := os.ReadFile(filepath.Join(dirs[1], name)); err != nil || !bytes.Equal(was, is) {
			t.Errorf("%s: %s has changed (%v)", what, name, err)
		}
	}
}

// requests are run on all images.
var requests = []struct {
	flags  string
	script []string
}{
	{"", []string{
		"info", "map", "alloc 0 1M", "length", "read -v 65500 77", "read -v 0 40", "readv -v 511 1 2 3 512 17", "readv -P 0 258k 1 2 3 512 17", "aio_read -v 100k 20 30", "aio_flush",
		"write -P 0x5a 60k 9k", "read -P 0x5a 60k 9k", "read -P 1 60k 9k", "read -P 0x5a -s 1k -l 2k 59k 9k", "writev -P 3 511 1 2 3 512 17", "readv -v 510 30 7", "write 1 1", "map",
		"aio_write -P 9 300k 512 511 1 64k", "aio_flush", "aio_read -P 9 300k 65k", "aio_flush", "aio_read -P 8 300k 65k", "aio_flush", "alloc 256k 100k", "flush", "map",
		"write -f -P 7 400k 512", "write -C 400k 512", "read -Cv 400k 512", "write -q 401k 1", "read -qv 401k 1", "discard -q 0 1", "discard -C 0 64k", "aio_write -C 0 512", "aio_flush",
		"write 1023k 1k", "write 1023k 1025", "read 1M 0", "read 1M 1", "write 2M 0", "discard 1M 1", "length",
	}},
	{"", []string{
		"write -P 1 0 256k", "write -z 0 64k", "map", "write -z 70000 9", "write -z -u 100k 100k", "map", "write -z -n 200k 1k", "read -v 204700 120", "write -z -n 256k 64k", "map",
		"discard 0 64k", "discard 65k 63k", "read -P 1 64k 1k", "aio_write -z 900k 3000", "aio_flush", "aio_write -z -u 900k 64k", "aio_flush", "write -z 1M 0", "map", "write -z 0 3G", "discard 0 3G",
	}},
	{"", []string{
		"write -c -P 8 128k 64k", "write -c 100 512", "write -c 512 512", "read -P 8 128k 64k", "write -c -z 192k 64k", "map", "write -P 2 130k 3k", "read -v 132k 1100", "map",
		"write -b -P 7 1k 64k", "read -b -P 7 1k 64k", "read -b 0 512", "write -b 1 512", "read -b 0 511", "map",
	}},
	{"", []string{"truncate 1536k", "length", "map", "read -v 1M 40", "write -P 4 1500k 512", "truncate 2M", "alloc 1M 1M", "truncate 1", "truncate x", "truncate -m bogus 3M", "map", "length"}},
	{"-s", []string{"info", "write -P 5 100k 70k", "map", "read -P 5 100k 70k", "read -v 50k 100", "write -z 0 64k", "discard 64k 64k", "write -c 512k 64k", "write -b 0 512", "read -P 5 100k 1", "write -P 6 0 1k", "read -v 1000 100", "truncate 2M", "length", "map"}},
	{"-C", []string{"read -v 300k 100", "map", "readv 600k 70k 100", "aio_read 1023k 1k", "aio_flush", "map", "read 1M 1", "write -P 3 900k 100", "map", "reopen -r", "read -P 3 900k 100", "reopen", "read 0 1", "map"}},
	{"-s -C", []string{"read 0 100k", "read 600k 1", "map", "write 0 1k"}},
	{"-r", []string{"write 0 512", "read -v 0 20", "reopen -w", "write -P 5 0 20", "read -v 0 30", "reopen -r", "aio_write 0 1", "truncate 1", "discard 0 1", "read 0 1", "map"}},
	{"-r -s", []string{"write 0 512", "map", "read 0 1"}},
	{"-d ignore", []string{"write -P 3 0 128k", "discard 0 64k", "write -z -u 64k 64k", "read -v 0 20", "map"}},
}

func TestRequestsBesideQemuIO(t *testing.T) {
	for i, image := range imageCases() {
		t.Run(image.name, func(t *testing.T) {
			t.Parallel()
			b := newBeside(t, image)
			some := requests
			if image.name == "luks" {
				some = some[:3] // unlocking takes long
			}
			for _, c := range some {
				b.run(t, "-t unsafe "+c.flags, without(c.script, image.never))
			}
			r := rand.New(rand.NewPCG(difftest.Seed(t, 1), uint64(i)))
			for range difftest.Scale(t, 1) {
				b.run(t, "", without(random(r), image.neverRandom))
			}
		})
	}
}

// without returns the script without the commands that begin with never.
func without(script []string, never string) []string {
	var some []string
	for _, c := range script {
		if never == "" || !strings.HasPrefix(c, never) {
			some = append(some, c)
		}
	}
	return some
}

// random returns a random script.
func random(r *rand.Rand) []string {
	var script []string
	for range 60 {
		grain := []int{1, 512, 4096, 65536}[r.IntN(4)]
		off := r.IntN((1<<20)/grain) * grain
		n := r.IntN(min(100_000, 1<<20-off)/grain+1) * grain
		a, b := r.IntN(n+1), r.IntN(1000)
		b = min(b, 1<<20-off-n)
		script = append(script, []string{
			fmt.Sprintf("write -P %d %d %d", r.IntN(256), off, n), fmt.Sprintf("writev -P %d %d %d %d %d", r.IntN(256), off, a, n-a, b),
			fmt.Sprintf("write -z %d %d", off, n), fmt.Sprintf("discard %d %d", off, n), fmt.Sprintf("read -v %d %d", off, min(n, 99)),
			fmt.Sprintf("readv -P %d %d %d %d", r.IntN(256), off, n, b), fmt.Sprintf("alloc %d %d", off, n),
			fmt.Sprintf("aio_write -P %d %d %d %d", r.IntN(256), off, a, b) + "\x00aio_flush", "map", "reopen",
		}[r.IntN(10)])
	}
	return strings.Split(strings.Join(script, "\x00"), "\x00")
}

// words are commands of which it matters how they are taken apart, and options.
var words = []struct {
	flags  string
	script []string
}{
	{"", []string{
		"read 0", "read 0 x", "foo", "write -P 999 0 1", "write -P 0x 0 1", "write -P -1 0 1", "write -P 010 0 1", "write -P \"\" 0 1", "write 0 0", "write 1M 2M", "alloc 0", "alloc 64k 100", "alloc 3M 1", "alloc -1", "alloc 0 -1", "alloc 0 1 2", "alloc x",
		"sleep x", "sleep 1", "sleep -1", "sleep", "sleep 0x1", "sleep 1 2", "write -P 3 -z 0 1", "write -z -c 0 1", "write -u 0 1", "write -n 0 1", "write -b 0 1", "write -b -z 0 1", "write -f -c 0 1", "write -s x -z 0 1",
		"read -s 1 -l 9 -P 1 0 5", "read -P 0 -s 6 0 5", "read -P 0 -s x 0 5", "read -P 0 -l x 0 5", "read -P 256 0 1", "read -p 0 1", "write -p 0 1",
		"read 0x10 0x20", "read 1.5k 1", "read 1.5 1", "read .5k 1", "read 1e3 1", "read 1MB 1", "read 8E 1", "read 7E 1", "read 0 1T", "read 0 2G", "read 0 2147483137", "read 99999999999999999999 1", "read +5 1", "read ' 0 1", "read '0' 1", "read \"0\" \"1\"",
		"  read   0  1  ", "\tread 0 1", "read\t0 1", "#foo", "", " ", "read 0 1\n", "r 0 1", "w 0 1", "wv 0 1", "rv 0 1", "a 0", "l", "f", "f x", "i x",
		"write -s /nonexistent 0 1", "write -s /dev/null 0 512", "write -s /dev/zero 0 1k", "write -s / 0 1k", "write -s $disk 0 1023", "write 0", "map x", "length x", "help nothing", "help a b",
		"readv 0 3G", "readv 0 1536M 1536M", "writev 0 x 3G", "aio_write 0 3G", "aio_write -z 0 3G", "aio_flush", "aio_write 0 3M", "aio_flush", "aio_read 2M 1", "aio_flush",
		"aio_write -i 0 1", "aio_write -i x y", "aio_write -z -i 0 1 2", "aio_read -qi 0 1", "aio_read -i -P 999 0 1", "aio_read -P 999 -i 0 1", "aio_write -z 0 1 2", "aio_write -u 0 1", "aio_write -z -P 3 0 1k", "aio_flush",
		"truncate", "truncate 1 2 3 4", "truncate -m", "truncate 9E", "truncate 7E", "discard x 1", "discard 0 x", "discard 0",
		"break a b", "break a", "remove_break a", "remove_break", "resume a", "resume", "wait_break", "sigraise", "sigraise 0", "sigraise x", "sigraise -1", "sigraise 66", "sigraise 1k", "sigraise 13", "sigraise 17", "sigraise 28",
		"read 0 1", "quit x", "length",
	}},
	{"", []string{"aio_read -P 9 0 512", "aio_flush"}},
	{"", []string{"reopen -r -w", "read 0 1"}},
	{"", []string{"close", "length", "map", "close", "info"}},
	{"", []string{"reopen -o foo=bar", "reopen -o driver=bogus", "reopen -o file.filename=other", "reopen -o file.filename=$disk", "reopen -o read-only=maybe", "reopen -o read-only=on", "write 0 1", "reopen -r -o read-only=on", "reopen -c none -o cache.direct=on", "reopen -c bogus",
		"reopen -o cache.no-flush=on", "write 0 512", "reopen -o node-name=x", "reopen -o ,", "reopen x", "reopen -o", "reopen -o read-only=off", "reopen -r", "reopen -o read-only=off", "write 1 1", "reopen -c unsafe", "write 2 1", "reopen -c writeback", "write 3 1",
		"reopen -o discard=bogus", "reopen -o discard=ignore", "write 0 128k", "discard 0 64k", "map", "reopen -o discard=unmap", "discard 64k 64k", "map", "reopen -o force-share=on", "length"}},
	{"-n", []string{"read 1 1", "write 1 1"}},
	{"-n -k -m", []string{"write 0 1", "read 0 1"}},
	{"-i io_uring", []string{"write 0 1", "read 0 1"}},
	{"-t directsync -i native", []string{"write 0 1", "read 0 1"}},
	{"-i native", []string{"length"}},
	{"-k", []string{"length"}},
	{"-U", []string{"length"}},
	{"-U -r", []string{"length"}},
	{"-U -s", []string{"length", "write 0 1"}},
	{"-r -C", []string{"length"}},
	{"-t bogus", []string{"length"}},
	{"-d bogus", []string{"length"}},
	{"none", []string{"length", "open $disk", "length", "open $disk", "close", "open -r $disk", "write 0 1", "close", "open", "length", "open a b", "open -x $disk", "open -t bogus $disk", "open -d bogus $disk", "open -i bogus $disk", "open -i threads $disk", "read 0 1", "close",
		"open -s $disk", "write 0 512", "map", "close", "open -C $disk", "read 0 1", "map", "close", "open -k $disk", "length", "open -U $disk", "length", "open -rU $disk", "length", "close", "open -d ignore $disk", "write 0 64k", "discard 0 64k", "map"}},
	{"none", []string{"open -o driver=raw $disk", "length", "close", "open -o driver=raw,file.filename=$disk", "length", "close", "open -o driver=raw -o offset=512,size=1k $disk", "length", "map", "read -v 0 10", "close", "open -o foo=bar $disk", "open -o driver=bogus $disk",
		"open -o file.filename=x $disk", "open -o driver=raw", "open -o backing=x $disk", "open -o read-only=on $disk", "open -r -o read-only=on $disk", "close", "open -o read-only=x $disk", "open -o cache.direct=x $disk", "open -o cache.direct=on,aio=native $disk", "close",
		"open -o file.aio=bogus $disk", "open -o file.aio=native $disk", "open -o file.aio=native,cache.direct=on $disk", "length", "close", "open -o discard=bogus $disk", "open -o discard=ignore $disk", "write 0 64k", "discard 0 64k", "map", "close",
		"open -o detect-zeroes=bogus $disk", "open -o detect-zeroes=unmap,discard=ignore $disk", "open -o detect-zeroes=on $disk", "write -P 0 128k 64k", "map", "close", "open -o detect-zeroes=unmap $disk", "write -P 0 0 64k", "map", "close",
		"open -o force-share=on $disk", "open -r -o force-share=on $disk", "length"}},
	{"none --object " + secret, []string{"open -o driver=qcow2,encrypt.key-secret=s $disk", "length"}},
}

// qcow2Words are those that only images of that format take.
var qcow2Words = [][]string{
	{"close", "open -o lazy-refcounts=on $disk", "info", "close", "open -o lazy-refcounts=x $disk", "open -o overlap-check=bogus $disk", "open -o overlap-check=none,l2-cache-size=1M $disk", "write 0 1", "close", "open -o l2-cache-size=x $disk", "length"},
	{"reopen -o lazy-refcounts=on", "info", "write 0 1", "reopen -o lazy-refcounts=x", "write 0 1", "reopen -o overlap-check=bogus", "reopen -o overlap-check=all", "reopen -o l2-cache-size=1M -o pass-discard-request=off", "write 0 1", "reopen -o lazy-refcounts=x", "info"},
	{"truncate -m metadata 2M", "truncate -m falloc 3M", "truncate -m full 4M", "length", "alloc 1M 3M"},
}

func TestWordsBesideQemuIO(t *testing.T) {
	for _, image := range imageCases() {
		if image.name != "v3" && image.name != "raw" && image.name != "qed" {
			continue
		}
		t.Run(image.name, func(t *testing.T) {
			t.Parallel()
			b := newBeside(t, image)
			for _, c := range words {
				b.run(t, c.flags, c.script)
			}
			for _, script := range qcow2Words {
				if image.format == "qcow2" {
					b.run(t, "", script)
				}
			}
			if image.format == "raw" {
				b.run(t, "", []string{"truncate -m metadata 2M", "truncate -m full 2M", "truncate -m falloc 3M", "truncate -m falloc 1M", "length", "truncate 1000", "length", "map", "write 1000 24", "write -z 1023 1", "discard 0 1024", "write -z -n 0 1"})
			}
		})
	}
}
