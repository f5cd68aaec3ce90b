package spapr

import "time"

func (m *Machine) now() time.Time {
	if m.Clock == nil {
		return time.Now()
	}
	return m.Clock()
}

// getTimeOfDay returns year, month, day, hour, minute, second in UTC, and
// nanoseconds.
func getTimeOfDay(c RTASCall) RTASStatus {
	if !c.Is(0, 8) {
		return RTASParameterError
	}
	now := c.Machine.now()
	t := time.Unix(now.Unix()+c.Machine.ClockOffset, 0).UTC()
	ns := uint32(now.UnixNano())
	if c.Machine.Strict&StrictClock != 0 {
		ns = uint32(now.Nanosecond())
	}
	year, month, day := t.Date()
	for i, v := range [...]uint32{
		uint32(year), uint32(month), uint32(day),
		uint32(t.Hour()), uint32(t.Minute()), uint32(t.Second()), ns,
	} {
		c.SetResult(i+1, v)
	}
	return RTASSuccess
}

// setTimeOfDay takes the same, all of it: a month of 13 is the next January.
// Nanoseconds are not kept.
func setTimeOfDay(c RTASCall) RTASStatus {
	if !c.Is(7, 1) {
		return RTASParameterError
	}
	var arg [6]int64
	for i := range arg {
		arg[i] = int64(int32(c.Arg(i)))
	}
	set := unixDay(arg[0], arg[1], arg[2])*86400 + arg[3]*3600 + arg[4]*60 + arg[5]
	c.Machine.ClockOffset = set - c.Machine.now().Unix()
	return RTASSuccess
}

// unixDay returns the days from 1970-01-01 to a date of the Gregorian
// calendar, whose month and day need not exist. It is apart from time.Date
// because that wraps around on 32-bit machines.
func unixDay(year, month, day int64) int64 {
	// Years begin in March here, so that the leap day is the last one.
	month -= 3
	year += floorDiv(month, 12)
	month -= 12 * floorDiv(month, 12)
	days := 365*year + floorDiv(year, 4) - floorDiv(year, 100) + floorDiv(year, 400)
	const to1970 = 719469 // from the last day of February of year 0
	return days + (153*month+2)/5 + day - to1970
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}
