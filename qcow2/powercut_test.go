package qcow2_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/virtfmt/virtfmt/internal/crashtest"
	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qcow2"
)

type crashStep = crashtest.Step[*qcow2.Image]

func stepWrite(off, n int64, fill byte) crashStep {
	return crashStep{Name: fmt.Sprintf("write %d %d", off, n), Do: func(im *qcow2.Image) error {
		_, err := im.WriteAt(bytes.Repeat([]byte{fill}, int(n)), off)
		return err
	}}
}

// stepCompress writes n clusters from the one at off on, or up to the end of
// the disk.
func stepCompress(off, n int64, fill byte) crashStep {
	return crashStep{Name: fmt.Sprintf("compress %d clusters at %d", n, off), Do: func(im *qcow2.Image) error {
		off := off &^ (im.ClusterSize() - 1)
		n := min(n*im.ClusterSize(), im.Size()-off)
		_, err := im.WriteCompressedAt(bytes.Repeat([]byte{fill}, int(n)), off)
		if errors.Is(err, qcow2.ErrAllocated) {
			return nil
		}
		return err
	}}
}

func stepZero(off, n int64) crashStep {
	return crashStep{Name: fmt.Sprintf("zero %d %d", off, n), Do: func(im *qcow2.Image) error { return im.WriteZeroesAt(off, n) }}
}

func stepDiscard(off, n int64) crashStep {
	return crashStep{Name: fmt.Sprintf("discard %d %d", off, n), Do: func(im *qcow2.Image) error { return im.DiscardAt(off, n) }}
}

func stepVMState(off, n int64) crashStep {
	return crashStep{Name: fmt.Sprintf("write VM state %d %d", off, n), Do: func(im *qcow2.Image) error {
		_, err := im.WriteVMStateAt(bytes.Repeat([]byte{7}, int(n)), off)
		return err
	}}
}

var (
	stepSync  = crashStep{Name: "sync", Do: (*qcow2.Image).Sync, Durable: true}
	stepClose = crashStep{Name: "close", Do: (*qcow2.Image).Close, Durable: true, Reopen: true}
)

// shortSequences leave at most 12 sectors unsynced, on clusters of 512 bytes.
func shortSequences() map[string][]crashStep {
	return map[string][]crashStep{
		"allocation":     {stepWrite(0, 512, 1), stepWrite(4096, 1024, 2), stepSync, stepWrite(512, 512, 3), stepWrite(20<<10, 512, 4), stepSync},
		"overwriting":    {stepWrite(0, 2048, 1), stepSync, stepWrite(0, 1024, 2), stepWrite(1024, 512, 3), stepSync, stepWrite(512, 512, 4), stepClose},
		"a new L2 table": {stepWrite(0, 512, 1), stepSync, stepWrite(33<<10, 512, 2), stepWrite(65<<10, 512, 3), stepSync},
		"discard":        {stepWrite(0, 2048, 1), stepSync, stepDiscard(512, 1024), stepSync, stepWrite(1024, 512, 2), stepWrite(8192, 512, 3), stepSync},
		"zeros":          {stepWrite(0, 1536, 1), stepSync, stepZero(0, 1024), stepSync, stepWrite(512, 512, 2), stepZero(16<<10, 512), stepSync},
		"compression":    {stepCompress(0, 2, 1), stepSync, stepCompress(1024, 1, 2), stepWrite(0, 512, 3), stepSync, stepWrite(512, 512, 4), stepClose},
		"reuse":          {stepWrite(0, 1024, 1), stepSync, stepDiscard(0, 1024), stepSync, stepSync, stepWrite(4096, 1024, 2), stepSync},
		"VM state":       {stepWrite(0, 512, 1), stepVMState(0, 512), stepSync, stepVMState(40<<10, 512), stepWrite(512, 512, 2), stepSync},
	}
}

// TestPowerCutsExhaustive tries every state that a power cut may leave during
// short sequences: all subsets of up to 12 unsynced sectors, at every length
// of the file.
func TestPowerCutsExhaustive(t *testing.T) {
	var stats crashtest.Stats
	exhaustive := 12
	if testing.Short() {
		exhaustive = 4
	}
	for _, o := range []qcow2.CreateOptions{
		{ClusterSize: 512, RefcountBits: 16},
		{ClusterSize: 512, RefcountBits: 64},
		{ClusterSize: 512, Version: 2},
		{ClusterSize: 512, LazyRefcounts: true},
	} {
		for name, steps := range shortSequences() {
			f := memfile.New()
			im, err := qcow2.Create(f, 72<<10, &o)
			if err != nil {
				t.Fatal(err)
			}
			if err := im.Close(); err != nil {
				t.Fatal(err)
			}
			t.Run(fmt.Sprintf("%s, version %d, %d bits, lazy %t", name, o.Version, o.RefcountBits, o.LazyRefcounts), func(t *testing.T) {
				stats.Add(crashtest.PowerCuts(t, crashFormat(nil), f, steps, crashtest.Options{
					Seed: difftest.Seed(t, 1), Exhaustive: exhaustive, Random: difftest.Scale(t, 20),
				}))
			})
		}
	}
	t.Log(stats)
}

// TestPowerCutsInQemu has qemu-img judge some of the states: it finds leaks
// and nothing else, but in images that are marked as dirty.
func TestPowerCutsInQemu(t *testing.T) {
	img := difftest.Tool(t, "qemu-img", "7.2")
	seed := difftest.Seed(t, 1)
	path := filepath.Join(difftest.FastDir(t), "state.qcow2")
	judged := 0
	for _, name := range []string{"512", "512-wide", "v2", "4k", "lazy"} {
		start, o, size := crashStart(t, name)
		rng := rand.New(rand.NewPCG(seed, 5))
		for range difftest.Scale(t, 5) {
			crashtest.PowerCuts(t, crashFormat(o), start, randomSteps(rng, size, 15), crashtest.Options{
				Seed: seed, Random: 2, SampleShare: 0.1, Sample: func(what string, f *memfile.File) {
					b := f.Bytes()
					if b[7] == 3 && b[79]&qcow2.IncompatDirty != 0 {
						return
					}
					writeFile(t, path, b)
					judged++
					if r := difftest.Try(t, img, "check", "-f", "qcow2", path); r.Code != 0 && r.Code != 3 {
						t.Errorf("%s, %s: qemu-img check: exit %d, %s%s", name, what, r.Code, r.Stdout, r.Stderr)
					}
				},
			})
		}
	}
	t.Logf("%d states judged by qemu-img", judged)
}
