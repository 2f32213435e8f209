package pytarget

import (
	"crypto/sha256"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

//go:embed embed/embed.c
var embedSource string

// buildEmbedder compiles the program that embeds Python, against the shared library of Debian's Python 3.11, and
// returns its path; "" where the machine has no such library to link with. The program is kept in the checkout's cache,
// under a name that says what it was made from.
func buildEmbedder(checkout string) (string, error) {
	config, err := exec.LookPath("/usr/bin/python3.11-config")
	if err != nil {
		return "", nil // its absence is for the caller to judge
	}
	flags, err := exec.Command(config, "--includes", "--ldflags", "--embed").Output()
	if err != nil {
		return "", fmt.Errorf("ask %s for compiler flags: %w", config, err)
	}
	key := sha256.Sum256([]byte(embedSource + string(flags)))
	path := filepath.Join(checkout, ".cache", fmt.Sprintf("embed-%x", key[:8]))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	unfinished, err := os.CreateTemp(filepath.Dir(path), "embed-*.new")
	if err != nil {
		return "", err
	}
	if err := unfinished.Close(); err != nil {
		return "", err
	}
	defer os.Remove(unfinished.Name()) // gone already when all went well

	arguments := append([]string{"-x", "c", "-", "-O1", "-pthread", "-o", unfinished.Name()}, strings.Fields(string(flags))...)
	compiler := exec.Command("gcc", arguments...)
	compiler.Stdin = strings.NewReader(embedSource)
	if output, err := compiler.CombinedOutput(); err != nil {
		return "", fmt.Errorf("compile the program that embeds Python: %w\n%s", err, output)
	}
	if err := os.Chmod(unfinished.Name(), 0o755); err != nil {
		return "", err
	}
	return path, os.Rename(unfinished.Name(), path)
}
