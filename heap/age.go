package heap

import (
	"math"
	"slices"
)

// ageBounds are the lower bounds, in seconds, of the buckets into which a dump sorts ages: spans that people think in,
// so that a filter's limit (1 minute, 12 hours) mostly is one of them and can be decided by label. Each bucket ends at
// most three times as far away as it begins; records stay few, since most stacks have blocks of a few ages only.
var ageBounds = [...]int32{
	0, 1, 2, 5, 10, 20, 30,
	60, 2 * 60, 5 * 60, 10 * 60, 20 * 60, 30 * 60,
	hour, 2 * hour, 3 * hour, 6 * hour, 12 * hour,
	day, 2 * day, 3 * day, week, 2 * week, 4 * week, 8 * week, 16 * week, 32 * week,
}

const (
	hour = 3600
	day  = 24 * hour
	week = 7 * day
)

// AgeBucket returns the lower bound, in seconds, of the bucket that an age belongs to; 0 for one below 0, which clocks
// may give.
func AgeBucket(seconds int64) int32 {
	i, found := slices.BinarySearch(ageBounds[:], int32(max(0, min(seconds, math.MaxInt32))))
	if !found {
		i--
	}
	return ageBounds[i]
}

// AgeBucketEnd returns the age at which the bucket with that lower bound ends, in seconds; math.MaxInt32 for the last.
// For an age that is no bound (of a profile that others made) the bucket is that second alone.
func AgeBucketEnd(bound int32) int32 {
	i, found := slices.BinarySearch(ageBounds[:], bound)
	switch {
	case !found:
		return bound + 1
	case i == len(ageBounds)-1:
		return math.MaxInt32
	}
	return ageBounds[i+1]
}
