package cli

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/heaptap/heaptap/profiler"
	"github.com/heaptap/heaptap/report"
)

// sizeText and countText show numbers as reports do.
func sizeText(bytes uint64) string { return report.Size(int64(bytes)) }
func countText(n uint64) string    { return report.Count(int64(n)) }

// sizeUnits maps what may stand behind a number of bytes. As everywhere in heaptap K and KiB are 1024; KB is 1000.
var sizeUnits = map[string]float64{
	"": 1, "b": 1,
	"k": 1 << 10, "kib": 1 << 10, "kb": 1e3,
	"m": 1 << 20, "mib": 1 << 20, "mb": 1e6,
	"g": 1 << 30, "gib": 1 << 30, "gb": 1e9,
	"t": 1 << 40, "tib": 1 << 40, "tb": 1e12,
}

// parseSize reads "524288", "512KiB", "512 k" or "1.5M".
func parseSize(s string) (uint64, error) {
	text := strings.TrimSpace(s)
	end := len(text)
	for i, c := range text {
		if (c < '0' || c > '9') && c != '.' {
			end = i
			break
		}
	}
	unit, ok := sizeUnits[strings.ToLower(strings.TrimSpace(text[end:]))]
	v, err := strconv.ParseFloat(text[:end], 64)
	if !ok || err != nil || v*unit != v*unit || v*unit >= math.MaxInt64 {
		return 0, fmt.Errorf("%q is not a size (for example 512KiB or 1M)", s)
	}
	return uint64(v * unit), nil
}

// sizeFlag is a number of bytes on the command line.
type sizeFlag uint64

func (f *sizeFlag) String() string { return strings.ReplaceAll(sizeText(uint64(*f)), " ", "") }
func (f *sizeFlag) Type() string   { return "BYTES" }
func (f *sizeFlag) Set(s string) error {
	v, err := parseSize(s)
	if err == nil && v == 0 {
		err = fmt.Errorf("a distance of 0 bytes between samples: leave --sample out to track every block")
	}
	*f = sizeFlag(v)
	return err
}

// domainsFlag is a list of allocator domains on the command line.
type domainsFlag []profiler.Domain

func (f *domainsFlag) String() string { return joinDomains(*f) }
func (f *domainsFlag) Type() string   { return "LIST" }
func (f *domainsFlag) Set(s string) error {
	var list []profiler.Domain
	for name := range strings.SplitSeq(s, ",") {
		d, ok := parseDomain(strings.TrimSpace(name))
		if !ok {
			return fmt.Errorf("%q is not a domain: raw, mem, obj, malloc, mmap", name)
		}
		list = append(list, d)
		if d == profiler.Mmap {
			list = append(list, profiler.File)
		}
	}
	*f = list
	return nil
}

func parseDomain(name string) (profiler.Domain, bool) {
	for d := range profiler.NumDomains {
		if d.String() == name && d != profiler.File { // it goes with Mmap
			return d, true
		}
	}
	return 0, false
}

func joinDomains(list []profiler.Domain) string {
	names := make([]string, len(list))
	for i, d := range list {
		names[i] = d.String()
	}
	return strings.Join(names, ", ")
}
