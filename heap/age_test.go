package heap

import (
	"math"
	"testing"
)

// Every age lies in its bucket, and the buckets leave nothing out.
func TestAgeBuckets(t *testing.T) {
	for _, age := range []int64{0, 1, 2, 4, 5, 59, 60, 61, 119, 120, 3599, 3600, 86399, 86400, 20 * 86400, 400 * 86400,
		math.MaxInt32, math.MaxInt64} {
		low := AgeBucket(age)
		if high := AgeBucketEnd(low); int64(low) > age || min(age, math.MaxInt32-1) >= int64(high) {
			t.Errorf("age %d is in the bucket from %d to %d", age, low, high)
		}
	}
	for i := 1; i < len(ageBounds); i++ {
		low, high := ageBounds[i-1], ageBounds[i]
		if AgeBucketEnd(low) != high || AgeBucket(int64(high)-1) != low || AgeBucket(int64(high)) != high {
			t.Errorf("the bucket from %d to %d", low, high)
		}
		if low > 0 && high > 3*low {
			t.Errorf("the bucket from %d to %d is wider than promised", low, high)
		}
	}
	if got := AgeBucket(-3); got != 0 {
		t.Errorf("a clock that went back gives bucket %d", got)
	}
	if got := AgeBucketEnd(64); got != 65 {
		t.Errorf("a foreign age of 64 s ends at %d", got)
	}
}
