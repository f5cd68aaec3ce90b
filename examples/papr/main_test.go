package main

import (
	"flag"
	"strings"
	"testing"
	"time"
)

const wantTour = `The firmware places the RTAS stub at 0xf0000: 7c641b783c6000006063f000440000224e800020.
It has a frame buffer of three lines,
    screen: 6161616161616161...
    screen: 6262626262626262...
    screen: 6363636363636363...
scrolls it up by one line,
    H_LOGICAL_MEMOP: copy 8 elements of size 8 from 0x10020 to 0x10000: H_SUCCESS
    screen: 6262626262626262...
    screen: 6363636363636363...
    screen: 6363636363636363...
and inverts the last.
    H_LOGICAL_MEMOP: invert 4 elements of size 8 from 0x10040 to 0x10040: H_SUCCESS
    screen: 6262626262626262...
    screen: 6363636363636363...
    screen: 9c9c9c9c9c9c9c9c...
It stores a word to a device that is not there,
    H_LOGICAL_CI_STORE: 4 bytes at 0x100000000, 0x12345678: H_SUCCESS
and calls RTAS services.
    console: "!"
    rtas display-character(0x21): success
    rtas get-time-of-day(): success, 0x7dc, 0x9, 0x5, 0xc, 0x0, 0x0, 0x37038000
    rtas ibm,get-system-parameter(0x14, 0x2000, 0x80): success
    rtas nvram-store(0x0, 0x2000, 0x10): success, 0x10
    rtas query-cpu-stopped-state(0x0): success, 0x2
    rtas set-time-of-day(0x7dc): parameter error
    rtas power-off(0x0, 0x0): success
The system parameter is "MaxEntCap=1,DesMem=1,DesProcs=1,MaxPlatProcs=1,HostThrs=1".
`

func clock() time.Time { return time.Date(2012, 9, 5, 12, 0, 0, 0, time.UTC) }

func TestTour(t *testing.T) {
	var out strings.Builder
	if err := run(nil, &out, clock); err != nil {
		t.Fatal(err)
	}
	if out.String() != wantTour {
		t.Errorf("got\n%swant\n%s", out.String(), wantTour)
	}
}

func TestStrict(t *testing.T) {
	var out strings.Builder
	if err := run([]string{"-strict"}, &out, clock); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"0x12345678: H_PARAMETER", "screen: 0000000000000000"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

func TestOne(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"get-power-level", "-1"}, "success [100]\n"},
		{[]string{"event-scan", "0xffffffff", "0", "0x2000", "64"}, "no events []\n"},
		{[]string{"-list"}, `nvram-fetch                    "\x00\x00 \x12"`},
	} {
		var out strings.Builder
		if err := run(c.args, &out, clock); err != nil || !strings.Contains(out.String(), c.want) {
			t.Errorf("%v: %v\n%s", c.args, err, out.String())
		}
	}
	for _, args := range [][]string{{"-x"}, {"no-service"}, {"get-power-level", "a"}, {"get-power-level", "0x100000000"}, {"get-power-level"}} {
		if err := run(args, new(strings.Builder), clock); err == nil {
			t.Errorf("%v: no error", args)
		}
	}
}

func TestHelp(t *testing.T) {
	var out strings.Builder
	if err := run([]string{"--help"}, &out, clock); err != flag.ErrHelp || !strings.HasPrefix(out.String(), "Usage of papr:") {
		t.Errorf("%v\n%s", err, out.String())
	}
}
