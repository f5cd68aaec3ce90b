package spapr

import "time"

func (m *Machine) now() time.Time {
	if m.Clock == nil {
		return time.Now()
	}
	return m.Clock()
}

// guestNanos returns the guest's time in nanoseconds since 1970. Like QEMU's
// it wraps around: it tells dates from 1677 to 2262.
func (m *Machine) guestNanos() int64 {
	return m.now().UnixNano() + int64(m.ClockOffset)
}

// getTimeOfDay returns year, month, day, hour, minute, second in UTC, and
// nanoseconds.
func getTimeOfDay(c RTASCall) RTASStatus {
	if !c.Is(0, 8) {
		return RTASParameterError
	}
	nanos := c.Machine.guestNanos()
	t := time.Unix(nanos/1e9, 0).UTC()
	if c.Machine.Strict&StrictClock != 0 {
		t = time.Unix(0, nanos).UTC()
		nanos = int64(t.Nanosecond())
	}
	year, month, day := t.Date()
	for i, v := range [...]uint32{
		uint32(year), uint32(month), uint32(day),
		uint32(t.Hour()), uint32(t.Minute()), uint32(t.Second()), uint32(nanos),
	} {
		c.SetResult(i+1, v)
	}
	return RTASSuccess
}

// setTimeOfDay takes the same, any numbers: a month of 13 is the next January.
// Nanoseconds begin at zero.
func setTimeOfDay(c RTASCall) RTASStatus {
	if !c.Is(7, 1) {
		return RTASParameterError
	}
	var arg [6]int64
	for i := range arg {
		arg[i] = int64(int32(c.Arg(i)))
	}
	seconds := unixDay(arg[0], arg[1], arg[2])*86400 + arg[3]*3600 + arg[4]*60 + arg[5]
	c.Machine.ClockOffset = time.Duration(seconds*1e9 - c.Machine.now().UnixNano())
	return RTASSuccess
}

// unixDay returns the days from 1970-01-01 to a date of the Gregorian
// calendar. The day need not exist, and months go on to 14. Later ones are as
// far away as QEMU takes them to be, a day or two from where they would be.
func unixDay(year, month, day int64) int64 {
	// Years begin in March here, so that the leap day is the last one.
	if month < 3 {
		month += 12
		year--
	}
	const to1970 = 719469 // from the day before March of year 0
	return day + (153*month-457)/5 + 365*year + year/4 - year/100 + year/400 - to1970
}
