package qcow2

import (
	"slices"
	"sort"
)

// A clusterSet is a set of host clusters, kept as sorted runs.
type clusterSet struct{ runs []clusterRun }

// A clusterRun is the clusters from first up to end.
type clusterRun struct{ first, end clusterIdx }

// after returns the index of the first run that ends past i.
func (s *clusterSet) after(i clusterIdx) int {
	return sort.Search(len(s.runs), func(k int) bool { return s.runs[k].end > i })
}

// overlaps reports whether one of n clusters is in the set.
func (s *clusterSet) overlaps(first clusterIdx, n int64) bool {
	k := s.after(first)
	return k < len(s.runs) && s.runs[k].first < first+clusterIdx(n)
}

// add adds n clusters.
func (s *clusterSet) add(first clusterIdx, n int64) {
	if n <= 0 {
		return
	}
	r := clusterRun{first, first + clusterIdx(n)}
	lo := s.after(first - 1) // a run that ends at first is joined
	hi := lo
	for hi < len(s.runs) && s.runs[hi].first <= r.end {
		r.first, r.end = min(r.first, s.runs[hi].first), max(r.end, s.runs[hi].end)
		hi++
	}
	s.runs = slices.Replace(s.runs, lo, hi, r)
}

// remove removes n clusters.
func (s *clusterSet) remove(first clusterIdx, n int64) {
	end := first + clusterIdx(n)
	lo := s.after(first)
	hi := lo
	var rest []clusterRun
	for hi < len(s.runs) && s.runs[hi].first < end {
		if r := s.runs[hi]; r.first < first {
			rest = append(rest, clusterRun{r.first, first})
		}
		if r := s.runs[hi]; r.end > end {
			rest = append(rest, clusterRun{end, r.end})
		}
		hi++
	}
	s.runs = slices.Replace(s.runs, lo, hi, rest...)
}

// newClusterSet returns the union of runs, whose list it keeps. Runs may be
// empty.
//
// Preconditions: the runs are sorted by where they begin.
func newClusterSet(list []clusterRun) clusterSet {
	n := 0
	for _, r := range list {
		switch {
		case r.first == r.end:
		case n > 0 && list[n-1].end >= r.first:
			list[n-1].end = max(list[n-1].end, r.end)
		default:
			list[n] = r
			n++
		}
	}
	return clusterSet{list[:n]}
}
