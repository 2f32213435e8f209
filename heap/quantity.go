package heap

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// ParseSize reads a number of bytes: "524288", "512KiB", "512 k" or "1.5M". K and KiB are 1024 bytes, KB is 1000, and so
// on to T; case does not matter.
func ParseSize(s string) (uint64, error) {
	text := strings.TrimSpace(s)
	end := len(text)
	for i, c := range text {
		if (c < '0' || c > '9') && c != '.' {
			end = i
			break
		}
	}
	unit, ok := sizeUnit(strings.ToLower(strings.TrimSpace(text[end:])))
	v, err := strconv.ParseFloat(text[:end], 64)
	if !ok || err != nil || v*unit >= math.MaxInt64 {
		return 0, fmt.Errorf("%q is not a size (for example 512KiB or 1M)", s)
	}
	return uint64(v * unit), nil
}

func sizeUnit(name string) (float64, bool) {
	switch name {
	case "", "b":
		return 1, true
	case "k", "kib":
		return 1 << 10, true
	case "kb":
		return 1e3, true
	case "m", "mib":
		return 1 << 20, true
	case "mb":
		return 1e6, true
	case "g", "gib":
		return 1 << 30, true
	case "gb":
		return 1e9, true
	case "t", "tib":
		return 1 << 40, true
	case "tb":
		return 1e12, true
	}
	return 0, false
}

// ParseAge reads a time span in whole seconds: "90s", "5m", "2h", "1d", "1w", "1h30m", or a number of seconds.
func ParseAge(s string) (int64, error) {
	wrong := fmt.Errorf("%q is not an age (for example 90s, 5m, 2h, 1d or 1h30m)", s)
	text := strings.TrimSpace(s)
	if text == "" {
		return 0, wrong
	}
	var total int64
	for text != "" {
		end := strings.IndexFunc(text, func(c rune) bool { return c < '0' || c > '9' })
		unit := int64(1)
		rest := ""
		switch {
		case end < 0 && total == 0: // a bare number
			end = len(text)
		case end <= 0:
			return 0, wrong
		default:
			unit = ageUnit(text[end])
			rest = text[end+1:]
		}
		v, err := strconv.ParseInt(text[:end], 10, 32)
		if err != nil || unit == 0 {
			return 0, wrong
		}
		if total += v * unit; total > math.MaxInt32 {
			return 0, fmt.Errorf("%q is more than an age can be", s)
		}
		text = rest
	}
	return total, nil
}

func ageUnit(letter byte) int64 {
	switch letter {
	case 's':
		return 1
	case 'm':
		return 60
	case 'h':
		return hour
	case 'd':
		return day
	case 'w':
		return week
	}
	return 0
}

// FormatAge writes seconds in the largest unit that takes them whole: "90s", "5m", "2h", "1d".
func FormatAge(seconds int64) string {
	for _, unit := range []struct {
		name string
		size int64
	}{{"w", week}, {"d", day}, {"h", hour}, {"m", 60}} {
		if seconds >= unit.size && seconds%unit.size == 0 {
			return strconv.FormatInt(seconds/unit.size, 10) + unit.name
		}
	}
	return strconv.FormatInt(seconds, 10) + "s"
}

// formatSize writes bytes in the largest unit that takes them whole, as ParseSize reads them.
func formatSize(bytes int64) string {
	for _, unit := range []struct {
		name string
		size int64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if bytes >= unit.size && bytes%unit.size == 0 {
			return strconv.FormatInt(bytes/unit.size, 10) + unit.name
		}
	}
	return strconv.FormatInt(bytes, 10)
}
