// Package transparency compares runs of CPython's own test suite, with and without something attached to the process
// that runs it: a process that is not harmed passes and fails the same tests.
package transparency

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode"
)

// Results are the outcomes of a run by test: "passed", "skipped", "failure" or "error", and several of these where a
// test ran more than once or has subtests.
type Results map[string]string

// ReadJUnit reads what CPython's regrtest writes for --junit-xml.
func ReadJUnit(report []byte) (Results, error) {
	results := map[string][]string{}
	decoder := xml.NewDecoder(bytes.NewReader(legible(report)))
	name, outcome := "", ""
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("read test report: %w", err)
		}
		switch element := token.(type) {
		case xml.StartElement:
			switch element.Name.Local {
			case "testcase":
				name, outcome = attribute(element, "name"), "passed"
			case "failure", "error", "skipped":
				outcome = element.Name.Local
			}
		case xml.EndElement:
			if element.Name.Local == "testcase" {
				results[name] = append(results[name], outcome)
			}
		}
	}
	joined := Results{}
	for name, outcomes := range results {
		slices.Sort(outcomes)
		joined[name] = strings.Join(slices.Compact(outcomes), " and ")
	}
	return joined, nil
}

func attribute(element xml.StartElement, name string) string {
	for _, a := range element.Attr {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

// legible takes out what tests have printed and XML does not allow: regrtest writes it as it comes.
func legible(report []byte) []byte {
	return bytes.Map(func(r rune) rune {
		if r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == unicode.ReplacementChar || r == 0xFFFE || r == 0xFFFF {
			return '?'
		}
		return r
	}, report)
}

// Difference is a test whose outcome is not the same in two runs; "" stands for a run that did not have the test.
type Difference struct {
	Test    string
	Without string
	With    string
}

func (d Difference) String() string {
	name := func(outcome string) string {
		if outcome == "" {
			return "absent"
		}
		return outcome
	}
	return fmt.Sprintf("%s: %s without, %s with", d.Test, name(d.Without), name(d.With))
}

// Compare lists the differences between two runs by test name.
func Compare(without, with Results) []Difference {
	var differences []Difference
	names := map[string]bool{}
	for _, results := range []Results{without, with} {
		for name := range results {
			names[name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if without[name] != with[name] {
			differences = append(differences, Difference{name, without[name], with[name]})
		}
	}
	return differences
}

// MostFrequent is the outcome that occurs most often, the first of them in a tie.
func MostFrequent(outcomes []string) string {
	counts := map[string]int{}
	for _, outcome := range outcomes {
		counts[outcome]++
	}
	return slices.MaxFunc(outcomes, func(a, b string) int { return counts[a] - counts[b] })
}
