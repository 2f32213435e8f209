package heap

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// In the file a timeline is one comment: points separated by spaces, each "time,tracked,rss". The first point's time is
// milliseconds since 1970, every other number the difference to the point before (to 0 in the first one); a value that
// was not measured is empty. A thousand points take some 15 kB, and most of that goes when the file is compressed.

// Keys of the comments that hold what has a place of its own in a Snapshot.
const (
	keyPeakTime = "peak at"
	keyTimeline = "timeline"

	momentForm = "2006-01-02T15:04:05.000Z07:00"
)

// maxPoints bounds a timeline.
const maxPoints = 1 << 20

func checkTimeline(points []Point) error {
	if len(points) > maxPoints {
		return fmt.Errorf("a timeline of %d points", len(points))
	}
	for i, p := range points {
		if i > 0 && p.Time.Before(points[i-1].Time) {
			return fmt.Errorf("point %d of the timeline is before point %d", i, i-1)
		}
		if ms := p.Time.UnixMilli(); ms < 0 || ms >= 1<<52 {
			return fmt.Errorf("point %d of the timeline is at %v", i, p.Time)
		}
	}
	return nil
}

func formatTimeline(points []Point) string {
	var b strings.Builder
	var last [3]int64
	for i, p := range points {
		if i > 0 {
			b.WriteByte(' ')
		}
		for n, v := range [...]uint64{uint64(p.Time.UnixMilli()), p.Tracked, p.RSS} {
			if n > 0 {
				b.WriteByte(',')
			}
			if v == Unmeasured {
				continue
			}
			b.WriteString(strconv.FormatInt(int64(v)-last[n], 10)) // wraps around, and back when it is read
			last[n] = int64(v)
		}
	}
	return b.String()
}

func parseTimeline(text string) ([]Point, error) {
	var points []Point
	var last [3]int64
	for word := range strings.FieldsSeq(text) {
		if len(points) == maxPoints {
			return nil, fmt.Errorf("more than %d points", maxPoints)
		}
		parts := strings.Split(word, ",")
		if len(parts) != len(last) {
			return nil, fmt.Errorf("point %q", word)
		}
		values := [3]uint64{Unmeasured, Unmeasured, Unmeasured}
		for n, part := range parts {
			if part == "" && n > 0 {
				continue
			}
			v, err := strconv.ParseInt(part, 10, 64)
			if err != nil {
				return nil, fmt.Errorf("point %q: %w", word, err)
			}
			last[n] += v
			values[n] = uint64(last[n])
		}
		points = append(points, Point{time.UnixMilli(int64(values[0])).UTC(), values[1], values[2]})
	}
	return points, checkTimeline(points)
}
