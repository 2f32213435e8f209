package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const cpythonDir = "../.."

// The committed table is what the committed input gives.
func TestGeneratedIsCurrent(t *testing.T) {
	want, err := os.ReadFile(filepath.Join(cpythonDir, "layouts_gen.go"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := load(input(cpythonDir))
	if err != nil {
		t.Fatal(err)
	}
	got, err := generate(c)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Error("cpython/layouts_gen.go is not what offsets.json gives: go run ./cpython/internal/genlayouts")
	}
}

// A vendor's build that differs in what heaptap uses stops the generator, as does a field that is missing.
func TestDisagreementIsRefused(t *testing.T) {
	for name, change := range map[string]func(*collection){
		"vendor": func(c *collection) { c.Versions["3.13.18-debian"]["PyCodeObject"].Fields["co_name"] = field{Off: 4} },
		"missing": func(c *collection) {
			delete(c.Versions["3.9.18"]["PyThreadState"].Fields, "thread_id")
		},
		"no structure": func(c *collection) { delete(c.Versions["3.12.1"], "PyASCIIObject") },
		"bit field":    func(c *collection) { c.Versions["3.8.18"]["PyASCIIObject"].Fields["state.kind"] = field{Off: 32} },
		"debug offset": func(c *collection) { c.DebugOffsets["3.14"] = c.DebugOffsets["3.14"][:40] },
	} {
		t.Run(name, func(t *testing.T) {
			c, err := load(input(cpythonDir))
			if err != nil {
				t.Fatal(err)
			}
			change(c)
			if _, err := generate(c); err == nil {
				t.Error("generated all the same")
			} else if strings.Contains(err.Error(), "%!") {
				t.Error(err)
			}
		})
	}
}
