package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

func TestParseSize(t *testing.T) {
	for text, want := range map[string]uint64{
		"0": 0, "524288": 524288, "512KiB": 512 << 10, "512k": 512 << 10, "512 K": 512 << 10, "1MB": 1e6, "1.5M": 3 << 19,
		"2GiB": 2 << 30, "1t": 1 << 40, "7B": 7,
	} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("parseSize(%q) = %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "k", "-1", "+1", "1x", "1e3", "NaN", "0x10", "1..2", "99999999TB", "1 k b"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("parseSize(%q) = %d, want an error", text, got)
		}
	}
}

func TestDurationText(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0 ns", 900: "900 ns", 112 * time.Microsecond: "0.11 ms", 4200 * time.Microsecond: "4.2 ms",
		38400 * time.Microsecond: "38 ms", 250 * time.Millisecond: "250 ms", 1500 * time.Millisecond: "1.5 s",
		130 * time.Second: "2m10s",
	} {
		if got := durationText(d); got != want {
			t.Errorf("durationText(%d) = %q, want %q", d, got, want)
		}
	}
}

// Whatever a target calls itself, the terminal is not steered by it.
func TestPrintable(t *testing.T) {
	for text, want := range map[string]string{
		"plain äöü 中": "plain äöü 中", "a\nb\tc": "a b c", "\x1b[31mred\x07": "?[31mred?", "\xff\xfe": "??",
		"right\u202eto left": "right?to left",
	} {
		if got := printable(text); got != want {
			t.Errorf("printable(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestHang(t *testing.T) {
	var b bytes.Buffer
	hang(&b, "hint: ", plain, "one two three four five six seven", 26)
	if want := "hint: one two three four\n      five six seven\n"; b.String() != want {
		t.Errorf("got\n%s, want\n%s", &b, want)
	}
	for line := range strings.Lines(b.String()) {
		if utf8.RuneCountInString(line) > 27 {
			t.Errorf("line of %d columns: %q", len(line), line)
		}
	}
}

// Every help fits 80 columns and has an example.
func TestHelps(t *testing.T) {
	env := System()
	root := (&app{Env: env}).root()
	var visit func(*cobra.Command)
	visit = func(c *cobra.Command) {
		if c.Name() == "completion" || c.Name() == "help" {
			return // cobra's own words
		}
		var out bytes.Buffer
		c.SetOut(&out)
		if err := c.Help(); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out.String()) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 {
				t.Errorf("%s: %d columns: %s", c.CommandPath(), n, line)
			}
		}
		if !c.IsAdditionalHelpTopicCommand() && c.Example == "" {
			t.Errorf("%s: no example", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(root)
}
