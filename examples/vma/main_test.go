package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/qcow2"
	"github.com/virtfmt/virtfmt/vma"
)

// A run is how a command line ended.
type run struct {
	code           int
	stdout, stderr string
}

func do(t *testing.T, stdin []byte, args ...string) run {
	t.Helper()
	var stdout, stderr bytes.Buffer
	c := &command{t.Context(), bytes.NewReader(stdin), &stdout, &stderr}
	return run{c.main(args), stdout.String(), stderr.String()}
}

// must runs a command line that must succeed.
func must(t *testing.T, args ...string) string {
	t.Helper()
	r := do(t, nil, args...)
	if r.code != 0 {
		t.Fatalf("vma %s: exit %d: %s", strings.Join(args, " "), r.code, r.stderr)
	}
	return r.stdout
}

// disks are the content of the disks of testArchive.
func disks() [2][]byte {
	r := rand.New(rand.NewPCG(1, 2))
	out := [2][]byte{make([]byte, 5<<20), make([]byte, 540672)}
	for _, d := range out {
		for off := 0; off < len(d); off += 4096 {
			if r.IntN(3) == 0 {
				d[off], d[off+r.IntN(4096)] = byte(r.Uint32()), 1
			}
		}
	}
	return out
}

// testArchive makes an archive by the command create and returns the directory
// that it is in, as a.vma.
func testArchive(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	d := disks()
	conf := "memory: 512\nscsi0: local:100/a.raw\n"
	for name, data := range map[string][]byte{"qemu-server.conf": []byte(conf), "0.raw": d[0], "1.raw": d[1]} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	at := func(s string) string { return filepath.Join(dir, s) }
	must(t, "create", at("a.vma"), "-c", at("qemu-server.conf"), "drive-scsi0="+at("0.raw"), "-d", "format=raw:drive-efidisk0="+at("1.raw"))
	return dir
}

func TestListConfigVerify(t *testing.T) {
	dir := testArchive(t)
	a := filepath.Join(dir, "a.vma")
	list := must(t, "list", a)
	var ctime string
	if _, rest, ok := strings.Cut(list, "CTIME: "); ok {
		ctime = strings.TrimSpace(rest)
	}
	want := "CFG: size: 35 name: qemu-server.conf\n" +
		"DEV: dev_id=1 size: 5242880 devname: drive-scsi0\n" +
		"DEV: dev_id=2 size: 540672 devname: drive-efidisk0\n" +
		"CTIME: " + ctime + "\n"
	if list != want {
		t.Errorf("list prints\n%swant\n%s", list, want)
	}
	if at, err := time.ParseInLocation(time.ANSIC, ctime, time.Local); err != nil || time.Since(at) > 24*time.Hour {
		t.Errorf("CTIME %q: %v", ctime, err)
	}
	if got := must(t, "config", a); got != "memory: 512\nscsi0: local:100/a.raw\n" {
		t.Errorf("config prints %q", got)
	}
	if r := do(t, nil, "config", a, "-c", "x"); r.code != 255 || r.stderr != "unable to find configuration data 'x'\n" {
		t.Errorf("config that is not there: %+v", r)
	}
	if got := must(t, "verify", a); got != "" {
		t.Errorf("verify prints %q", got)
	}
	got := must(t, "verify", "-v", a)
	if !strings.HasPrefix(got, want) || !strings.Contains(got, "progress 100% (read 5832704 bytes, duration ") ||
		!strings.Contains(got, "total bytes read 5832704, sparse bytes ") || !strings.Contains(got, "space reduction due to 4K zero blocks ") {
		t.Errorf("verify -v prints\n%s", got)
	}
	// The same from a pipe, compressed.
	plain, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	var gz bytes.Buffer
	z := gzip.NewWriter(&gz)
	z.Write(plain)
	z.Close()
	for _, in := range [][]byte{plain, gz.Bytes()} {
		if r := do(t, in, "list", "-"); r.code != 0 || r.stdout != list {
			t.Errorf("list -: %+v", r)
		}
		if r := do(t, in, "verify", "-"); r.code != 0 {
			t.Errorf("verify -: %+v", r)
		}
	}
	plain[len(plain)-1000000] ^= 1 // data has no checksum
	plain[13000] ^= 1
	r := do(t, plain[:len(plain)-4096], "verify", "-")
	if r.code != 133 || !strings.Contains(r.stderr, "error: extent 0 at 0x3218: wrong extent header checksum: repaired\n") ||
		!strings.Contains(r.stderr, "blocks lost") {
		t.Errorf("verify of a damaged archive: %+v", r)
	}
}

func TestExtract(t *testing.T) {
	dir := testArchive(t)
	a, d := filepath.Join(dir, "a.vma"), disks()
	plain, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	check := func(path string, want []byte) {
		t.Helper()
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %v, or other bytes", path, err)
		}
	}
	out := filepath.Join(dir, "out")
	if got := must(t, "extract", "-v", a, out); !strings.Contains(got, "progress 100%") || !strings.Contains(got, "DEV: dev_id=1") {
		t.Errorf("extract -v prints %q", got)
	}
	check(filepath.Join(out, "disk-drive-scsi0.raw"), d[0])
	check(filepath.Join(out, "disk-drive-efidisk0.raw"), d[1])
	check(filepath.Join(out, "qemu-server.conf"), []byte("memory: 512\nscsi0: local:100/a.raw\n"))
	if r := do(t, nil, "extract", a, out); r.code != 133 {
		t.Errorf("extract over a directory that is there: %+v", r)
	}
	some := filepath.Join(dir, "some")
	if r := do(t, plain, "extract", "-d", "drive-efidisk0", "-", some); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	check(filepath.Join(some, "disk-drive-efidisk0.raw"), d[1])
	if _, err := os.Stat(filepath.Join(some, "disk-drive-scsi0.raw")); err == nil {
		t.Error("extract -d wrote a device that was not chosen")
	}
	// A map, to disks that hold something else.
	target, image := filepath.Join(dir, "target"), filepath.Join(dir, "target.qcow2")
	if err := os.WriteFile(target, bytes.Repeat([]byte("x"), len(d[0])), 0o600); err != nil {
		t.Fatal(err)
	}
	newQcow2(t, image, int64(len(d[1])))
	m := filepath.Join(dir, "map")
	lines := "format=raw:throttling.bps=100000000:throttling.group=g:cache=none:1:drive-scsi0=" + target + "\n" +
		"format=qcow2:0:drive-efidisk0=" + image + "\n\n"
	if err := os.WriteFile(m, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	got := must(t, "extract", "-r", m, a, filepath.Join(dir, "mapped"))
	if want := fmt.Sprintf("map 'drive-scsi0' to '%s' (write zeros = 1)\nmap 'drive-efidisk0' to '%s' (write zeros = 0)\n", target, image); got != want {
		t.Errorf("extract -r prints %q, want %q", got, want)
	}
	check(target, d[0])
	checkQcow2(t, image, d[1])
	for _, bad := range []string{"drive-scsi0=x", "1:drive-scsi0=" + target, "skip=drive-scsi0\nskip=drive-scsi0", "2:a=b", "format=raw:", "throttling.bps=x:1:a=b"} {
		if err := os.WriteFile(m, []byte(bad+"\ndone\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if r := do(t, nil, "extract", "-r", m, a, filepath.Join(t.TempDir(), "bad")); r.code != 133 {
			t.Errorf("map %q: %+v", bad, r)
		}
	}
	if err := os.WriteFile(m, []byte("skip=drive-scsi0\n1:drive-efidisk0="+target+"x\ndone\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(target+"x", make([]byte, 512), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := do(t, nil, "extract", "-r", m, a, filepath.Join(dir, "small")); r.code != 133 || !strings.Contains(r.stderr, "512 bytes") {
		t.Errorf("a target that is too small: %+v", r)
	}
}

func newQcow2(t *testing.T, name string, size int64) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	im, err := qcow2.Create(f, size, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
}

func checkQcow2(t *testing.T, name string, want []byte) {
	t.Helper()
	im, err := qcow2.OpenFile(name, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	got := make([]byte, im.Size())
	if _, err := im.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: %v, or other bytes", name, err)
	}
	if r, err := im.Check(t.Context(), nil); err != nil || len(r.Findings) > 0 {
		t.Errorf("%s: %v, %+v", name, err, r)
	}
}

func TestConvert(t *testing.T) {
	dir := testArchive(t)
	a, d := filepath.Join(dir, "a.vma"), disks()
	plain, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"file":    {"convert", a},
		"deflate": {"convert", "-z", "deflate", a},
		"zstd":    {"convert", "-zzstd", a},
		"stream":  {"convert", "-"},
	} {
		out := filepath.Join(dir, name)
		if r := do(t, plain, append(args, out)...); r.code != 0 {
			t.Fatalf("%s: %+v", name, r)
		}
		for i, image := range []string{"drive-scsi0.qcow2", "drive-efidisk0.qcow2"} {
			checkQcow2(t, filepath.Join(out, image), d[i])
		}
		if _, err := os.Stat(filepath.Join(out, "qemu-server.conf")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	some := filepath.Join(dir, "some")
	must(t, "convert", "-d", "drive-scsi0", a, some)
	if _, err := os.Stat(filepath.Join(some, "drive-efidisk0.qcow2")); err == nil {
		t.Error("convert -d wrote a device that was not chosen")
	}
	cut := filepath.Join(dir, "cut")
	if r := do(t, plain[:len(plain)/2], "convert", "-", cut); r.code != 133 {
		t.Errorf("half an archive: %+v", r)
	}
	if _, err := os.Stat(filepath.Join(cut, "drive-scsi0.qcow2")); err == nil {
		t.Error("half an archive became an image")
	}
	salvaged := filepath.Join(dir, "salvaged")
	if r := do(t, plain[:len(plain)-4096], "convert", "-S", "-", salvaged); r.code != 133 || !strings.Contains(r.stderr, "blocks lost") {
		t.Errorf("convert -S: %+v", r)
	}
	checkQcow2(t, filepath.Join(salvaged, "drive-scsi0.qcow2"), d[0])
}

// TestConvertQemu has qemu-img check what convert makes.
func TestConvertQemu(t *testing.T) {
	qemuImg := difftest.Tool(t, "qemu-img", "7.2")
	dir := testArchive(t)
	plain, err := os.ReadFile(filepath.Join(dir, "a.vma"))
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range []string{filepath.Join(dir, "a.vma"), "-"} {
		out := filepath.Join(t.TempDir(), "out")
		if r := do(t, plain, "convert", in, out); r.code != 0 {
			t.Fatalf("%+v", r)
		}
		image := filepath.Join(out, "drive-scsi0.qcow2")
		difftest.Run(t, qemuImg, "check", image)
		difftest.Run(t, qemuImg, "compare", "-f", "qcow2", "-F", "raw", image, filepath.Join(dir, "0.raw"))
	}
}

func TestCreateRepack(t *testing.T) {
	dir := testArchive(t)
	at := func(s string) string { return filepath.Join(dir, s) }
	d := disks()
	// From qcow2, to standard output and to a command.
	f, err := os.Create(at("0.qcow2"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := qcow2.Encode(t.Context(), f, block.Raw(bytes.NewReader(d[0]), int64(len(d[0]))), nil); err != nil {
		t.Fatal(err)
	}
	r := do(t, nil, "create", "-", "-v", at("0.qcow2"))
	if r.code != 0 || !strings.Contains(r.stderr, "progress 100%") {
		t.Fatalf("%+v", r)
	}
	if r := do(t, []byte(r.stdout), "verify", "-"); r.code != 0 {
		t.Errorf("an archive from standard output: %+v", r)
	}
	must(t, "create", "exec:cat >"+at("b.vma"), "disk0="+at("0.qcow2"))
	must(t, "extract", at("b.vma"), at("b"))
	if got, err := os.ReadFile(at("b/disk-disk0.raw")); err != nil || !bytes.Equal(got, d[0]) {
		t.Errorf("a disk that came from qcow2: %v, or other bytes", err)
	}
	if r := do(t, nil, "create", at("b.vma"), at("0.raw")); r.code != 133 {
		t.Errorf("create over a file that is there: %+v", r)
	}
	if r := do(t, nil, "create", at("c.vma"), "a/b="+at("0.raw")); r.code != 133 {
		t.Errorf("create with a bad name: %+v", r)
	}
	if _, err := os.Stat(at("c.vma")); err == nil {
		t.Error("a failed create leaves a file")
	}
	uuid := "00112233-4455-6677-8899-aabbccddeeff"
	must(t, "repack", "-u", uuid, at("a.vma"), at("r1.vma"))
	must(t, "repack", "-u", uuid, at("r1.vma"), at("r2.vma"))
	r1, err1 := os.ReadFile(at("r1.vma"))
	r2, err2 := os.ReadFile(at("r2.vma"))
	if err1 != nil || err2 != nil || !bytes.Equal(r1, r2) || !bytes.Equal(r1[8:12], []byte{0, 0x11, 0x22, 0x33}) {
		t.Errorf("repack: %v, %v, or other bytes", err1, err2)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{nil, {"x"}, {"list"}, {"list", "-x", "a"}, {"config", "a", "-c"}, {"extract", "a"}, {"convert", "a"}, {"repack", "a"}, {"verify", "a", "b"}, {"create"}} {
		if r := do(t, nil, args...); r.code != 1 || !strings.Contains(r.stderr, "usage: vma command") {
			t.Errorf("%q: %+v", args, r)
		}
	}
	if r := do(t, nil, "--help"); r.code != 0 || r.stdout != usage || r.stderr != "" {
		t.Errorf("%+v", r)
	}
	if r := do(t, nil, "create", filepath.Join(t.TempDir(), "a.vma"), "d="+t.TempDir()); r.code != 133 || !strings.Contains(r.stderr, "is a directory") {
		t.Errorf("%+v", r)
	}
	if r := do(t, nil, "list", "/does/not/exist"); r.code != 133 || !strings.HasPrefix(r.stderr, "vma: ERROR: open") {
		t.Errorf("%+v", r)
	}
	if r := do(t, []byte("hello"), "list", "-"); r.code != 133 || !strings.Contains(r.stderr, vma.ErrFormat.Error()) && !strings.Contains(r.stderr, "wrong header magic") {
		t.Errorf("%+v", r)
	}
	o, rest, err := parse([]string{"a", "-vc", "x", "-cy", "--", "-z"}, "vc:")
	if err != nil || !o.has('v') || fmt.Sprint(o['c']) != "[x y]" || fmt.Sprint(rest) != "[a -z]" {
		t.Errorf("parse: %v, %v, %v", o, rest, err)
	}
}

// A fullDisk takes nothing.
type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

// TestMistakes are those that would otherwise pass unseen.
func TestMistakes(t *testing.T) {
	dir := testArchive(t)
	a := filepath.Join(dir, "a.vma")
	for _, args := range [][]string{{"list", a}, {"config", a}, {"verify", "-v", a}, {"--help"}} {
		var stderr bytes.Buffer
		c := &command{t.Context(), nil, fullDisk{}, &stderr}
		if code := c.main(args); code != exitError || !strings.Contains(stderr.String(), "no space") {
			t.Errorf("%q to a full disk: exit %d, %s", args, code, &stderr)
		}
	}
	for _, command := range []string{"extract", "convert"} {
		for drives, want := range map[string]string{"drive-scsi1,drive-scsi0": "vma: warning: the archive has no drive \"drive-scsi1\"\n", "drive-scsi0": ""} {
			if r := do(t, nil, command, "-d", drives, a, filepath.Join(t.TempDir(), "out")); r.code != 0 || r.stderr != want {
				t.Errorf("%s -d %s: %+v", command, drives, r)
			}
		}
	}
	plain, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	const hint = "(-S takes what can be read)\n"
	for name, b := range map[string][]byte{"damaged": plain[:len(plain)/2], "other": make([]byte, 20000)} {
		for _, args := range [][]string{{"extract", "-"}, {"extract", "-S", "-"}} {
			r := do(t, b, append(args, filepath.Join(t.TempDir(), "out"))...)
			if r.code != exitError || strings.HasSuffix(r.stderr, hint) != (name == "damaged" && len(args) == 2) {
				t.Errorf("%q of a %s file: %+v", args, name, r)
			}
		}
	}
}
