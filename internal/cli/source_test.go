package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Source comes from Python files only, wherever a hostile snapshot points, and from the longest path below a root.
func TestSourceFinder(t *testing.T) {
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	for name, text := range map[string]string{
		"root/srv/app/a.py": "long", "root/app/a.py": "short", "root/b.py": "end", "root/data": "secret",
		"outside.py": "outside", "here.py": "here", "here.txt": "secret",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	large := filepath.Join(dir, "large.py")
	if err := os.WriteFile(large, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(large, maxSourceBytes+1); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "folder.py"), 0o777); err != nil {
		t.Fatal(err)
	}
	below := func(name string) string { return filepath.Join(root, name) }
	for _, c := range []struct {
		root, name string
		text, path string // found
		err        string // or not
	}{
		{root: root, name: "/srv/app/a.py", text: "long", path: below("srv/app/a.py")},
		{root: root, name: "/opt/app/a.py", text: "short", path: below("app/a.py")},
		{root: root, name: "app/a.py", text: "short", path: below("app/a.py")},
		{root: root, name: "/x/y/b.py", text: "end", path: below("b.py")},
		{root: root, name: "../outside.py", err: "relative"},
		{root: root, name: "/../../outside.py", err: "does not exist"},
		{root: root, name: filepath.Join(dir, "here.py"), text: "here"},
		{root: root, name: "/srv/app/data", err: "not called a Python source file"},
		{name: filepath.Join(dir, "here.py"), text: "here"},
		{name: filepath.Join(dir, "here.txt"), err: "not called a Python source file"},
		{name: "/etc/passwd", err: "not called a Python source file"},
		{name: filepath.Join(dir, "here.py", "x.py"), err: "does not exist"},
		{name: filepath.Join(dir, "none.py"), err: "does not exist"},
		{name: large, err: "too large"},
		{name: filepath.Join(dir, "folder.py"), err: "not a regular file"},
		{name: "here.py", err: "relative"},
		{name: "<string>", err: "not from a file"},
		{name: "[native]", err: "not from a file"},
		{name: "", err: "not from a file"},
		{name: "/a\x00.py", err: "not the name of a file"},
	} {
		source, err := sourceFinder{c.root}.find(c.name)
		switch {
		case c.err != "":
			if err == nil || !strings.Contains(err.Error(), c.err) || len(source.Text) > 0 {
				t.Errorf("%q: %q, error %v, want %q", c.name, source.Text, err, c.err)
			}
		case err != nil || string(source.Text) != c.text || source.Path != c.path || source.Modified.IsZero():
			t.Errorf("%q: %q in %q of %v, error %v", c.name, source.Text, source.Path, source.Modified, err)
		}
	}
}
