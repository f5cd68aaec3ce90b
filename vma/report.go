package vma

import "slices"

// A Report is what is known of an archive after reading it: what it holds and
// what is wrong with it.
type Report struct {
	Profile  Profile
	Extents  int64 // extents read
	Clusters int64 // clusters listed, of all devices
	// ZeroClusters is how many of Clusters have no stored block,
	// StoredBlocks how many blocks of 4096 bytes all of them store.
	ZeroClusters, StoredBlocks int64
	Devices                    []DeviceReport // in order of ID
	// Findings are in the order of their discovery, of each [Code] the first
	// [Options.MaxFindings]; [Report.Count] counts all.
	Findings []Finding

	counts [numCodes]int64
	first  *Finding // the first that is an Error
	stop   *Finding // the first that ends a reading
}

// A DeviceReport is what an archive holds of a device.
type DeviceReport struct {
	DeviceInfo
	Clusters     int64 // clusters of the device in the archive
	ZeroClusters int64 // those of them without a stored block
	StoredBlocks int64 // stored blocks of 4096 bytes
	Missing      int64 // clusters that are not in the archive
}

// OK reports whether no finding is an [Error].
func (r *Report) OK() bool { return r.first == nil }

// Count returns how often a finding of code c was made, whether or not it is
// in Findings.
func (r *Report) Count(c Code) int64 {
	if c >= numCodes {
		return 0
	}
	return r.counts[c]
}

// Err returns the first finding that is an [Error] as a [*FormatError], nil
// where r is OK.
func (r *Report) Err() error {
	if r.first == nil {
		return nil
	}
	return r.first.formatError()
}

// loss returns the first finding of content that the archive lacks.
func (r *Report) loss() (Finding, bool) {
	for _, code := range [...]Code{CodeMissing, CodeVMStateMissing, CodeLost} {
		if r.counts[code] == 0 {
			continue
		}
		if i := slices.IndexFunc(r.Findings, func(f Finding) bool { return f.Code == code }); i >= 0 {
			return r.Findings[i], true
		}
		return Finding{Code: code}, true
	}
	return Finding{}, false
}

// clone returns a copy that later findings do not change.
func (r *Report) clone() *Report {
	c := *r
	c.Findings = slices.Clone(r.Findings)
	return &c
}

// full reports whether a finding of code c only counts by now; it is counted.
func (r *Report) full(c Code, opt *Options) bool {
	if r.counts[c] < int64(opt.MaxFindings) || c.severity(opt.Profile) == Error {
		return false
	}
	r.counts[c]++
	return true
}

// add records a finding whose severity is set, the first limit of each code.
func (r *Report) add(f Finding, limit int) {
	if f.Severity == Error {
		r.failed(f)
	}
	r.counts[f.Code]++
	if r.counts[f.Code] <= int64(limit) {
		r.Findings = append(r.Findings, f)
	}
}

// failed takes note of a finding that is an Error.
func (r *Report) failed(f Finding) {
	if r.first == nil {
		r.first = &f
	}
	if r.stop == nil && f.stops() {
		r.stop = &f
	}
}
