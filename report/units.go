package report

import (
	"fmt"
	"strconv"
)

// Size formats a number of bytes for people: "512 B", "1.5 KiB", "31.4 MiB".
func Size(n int64) string {
	if n < 0 {
		return "-" + sizeOf(-float64(n))
	}
	return sizeOf(float64(n))
}

func sizeOf(v float64) string {
	if v < 1024 {
		return fmt.Sprintf("%.0f B", v)
	}
	for _, unit := range []string{"KiB", "MiB", "GiB", "TiB"} {
		v /= 1024
		if v < 1023.95 { // so that rounding never shows 1024.0
			return fmt.Sprintf("%.1f %s", v, unit)
		}
	}
	if v /= 1024; v < 1023.95 {
		return fmt.Sprintf("%.1f PiB", v)
	}
	return fmt.Sprintf("%.1f EiB", v/1024)
}

// Count formats a number with separators: "1,234,567".
func Count(n int64) string {
	digits := strconv.FormatInt(n, 10)
	sign := ""
	if n < 0 {
		sign, digits = "-", digits[1:]
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return sign + digits
}

// Percent formats a part of 1: "69.5 %". What is there but rounds to nothing is "<0.1 %".
func Percent(part float64) string {
	if part > 0 && part < 0.0005 {
		return "<0.1 %"
	}
	return fmt.Sprintf("%.1f %%", 100*part)
}
