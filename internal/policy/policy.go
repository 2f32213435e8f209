// Package policy checks what this repository holds itself to and no compiler sees: which package may import which, what
// no code and no test may do, and how public packages are documented. The checks work on sources, and its tests run
// them over the whole checkout and over samples that break each rule.
package policy

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// File is one Go source file.
type File struct {
	Path   string // in the checkout, with slashes
	Source []byte
	Syntax *ast.File
	set    *token.FileSet
}

// Parse parses one Go file.
func Parse(name string, source []byte) (File, error) {
	set := token.NewFileSet()
	syntax, err := parser.ParseFile(set, name, source, parser.ParseComments|parser.SkipObjectResolution)
	return File{name, source, syntax, set}, err
}

// Load parses all Go files of the module at top, without modules below it and without hidden folders and test data.
func Load(top string) ([]File, error) {
	var files []File
	err := filepath.WalkDir(top, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return skipFolder(top, name, entry.Name())
		}
		if filepath.Ext(name) != ".go" {
			return nil
		}
		relative, err := filepath.Rel(top, name)
		if err != nil {
			return err
		}
		source, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		file, err := Parse(filepath.ToSlash(relative), source)
		files = append(files, file)
		return err
	})
	return files, err
}

func skipFolder(top, name, base string) error {
	if name == top {
		return nil
	}
	if strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || base == "testdata" {
		return fs.SkipDir
	}
	if _, err := os.Stat(filepath.Join(name, "go.mod")); !errors.Is(err, fs.ErrNotExist) {
		return fs.SkipDir // another module, or an unreadable folder, which the walk reports
	}
	return nil
}

// Folder is the file's folder in the checkout: its import path without the module's.
func (f File) Folder() string { return path.Dir(f.Path) }

// Test reports whether only tests use the file.
func (f File) Test() bool { return strings.HasSuffix(f.Path, "_test.go") }

// at is a violation at a place in the file.
func (f File) at(node ast.Node, message string, args ...any) string {
	return fmt.Sprintf("%s:%d: %s", f.Path, f.set.Position(node.Pos()).Line, fmt.Sprintf(message, args...))
}

// imports are the import paths of the file.
func (f File) imports() map[string]ast.Node {
	found := map[string]ast.Node{}
	for _, spec := range f.Syntax.Imports {
		if name, err := strconv.Unquote(spec.Path.Value); err == nil {
			found[name] = spec
		}
	}
	return found
}

// Lattice says which of a module's packages each package may import.
type Lattice map[string][]string

// ParseLattice reads lines of "package: package ...", bottom first: a package may only name packages above its line,
// so that imports go one way. Empty lines and lines that begin with # are left out.
func ParseLattice(text string) (Lattice, error) {
	lattice := Lattice{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, allowed, ok := strings.Cut(line, ":")
		if !ok {
			return nil, fmt.Errorf("lattice line %q: no colon", line)
		}
		if _, twice := lattice[name]; twice {
			return nil, fmt.Errorf("lattice line %q: %s has a line already", line, name)
		}
		for _, below := range strings.Fields(allowed) {
			if _, known := lattice[below]; !known {
				return nil, fmt.Errorf("lattice line %q: %s has no line above it", line, below)
			}
		}
		lattice[name] = strings.Fields(allowed)
	}
	return lattice, nil
}

// CheckLattice reports imports that the lattice does not allow, and packages that it does not know. Tests may import
// what they like.
func CheckLattice(lattice Lattice, module string, files []File) []string {
	var violations []string
	for _, f := range files {
		if f.Test() {
			continue
		}
		allowed, known := lattice[f.Folder()]
		if !known {
			violations = append(violations, f.at(f.Syntax, "package %s has no line in the lattice", f.Folder()))
			continue
		}
		for name, node := range f.imports() {
			if ours, ok := strings.CutPrefix(name, module+"/"); ok && !slices.Contains(allowed, ours) {
				violations = append(violations, f.at(node, "%s may not import %s", f.Folder(), ours))
			}
		}
	}
	return violations
}

// CheckNoProcesses reports imports by which the heap model or the reports could know of processes.
func CheckNoProcesses(folders []string, files []File) []string {
	var violations []string
	for _, f := range files {
		if f.Test() || !slices.Contains(folders, f.Folder()) {
			continue
		}
		for name, node := range f.imports() {
			if name == "syscall" || name == "os/exec" || name == "unsafe" || strings.HasPrefix(name, "golang.org/x/sys") {
				violations = append(violations, f.at(node, "%s knows of no process, and imports %s", f.Folder(), name))
			}
		}
	}
	return violations
}

var ptraceName = regexp.MustCompile(`^(SYS_PTRACE$|PTRACE_|Ptrace)`)

// CheckPtrace reports ptrace calls and constants outside the package ptrace; tests may trace what they test with.
func CheckPtrace(files []File) []string {
	var violations []string
	for _, f := range files {
		if f.Test() || f.Folder() == "ptrace" {
			continue
		}
		f.selectors(func(node ast.Node, left, name string) {
			if (left == "unix" || left == "syscall") && ptraceName.MatchString(name) {
				violations = append(violations, f.at(node, "%s.%s outside package ptrace", left, name))
			}
		})
	}
	return violations
}

// selectors visits every use of an exported name of an imported package, among other a.b expressions.
func (f File) selectors(visit func(node ast.Node, left, name string)) {
	ast.Inspect(f.Syntax, func(node ast.Node) bool {
		if selector, ok := node.(*ast.SelectorExpr); ok {
			if left, ok := selector.X.(*ast.Ident); ok {
				visit(node, left.Name, selector.Sel.Name)
			}
		}
		return true
	})
}

// CheckInit reports init functions.
func CheckInit(files []File) []string {
	var violations []string
	for _, f := range files {
		for _, declaration := range f.Syntax.Decls {
			if fn, ok := declaration.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				violations = append(violations, f.at(fn, "func init"))
			}
		}
	}
	return violations
}

// CheckExit reports os.Exit and the like: only programs, tests (TestMain) and the packages that are excepted end the
// process.
func CheckExit(excepted []string, files []File) []string {
	var violations []string
	for _, f := range files {
		if f.Syntax.Name.Name == "main" || f.Test() || slices.Contains(excepted, f.Folder()) {
			continue
		}
		f.selectors(func(node ast.Node, left, name string) {
			if left == "os" && name == "Exit" || left == "log" && strings.HasPrefix(name, "Fatal") {
				violations = append(violations, f.at(node, "%s.%s outside a program", left, name))
			}
		})
	}
	return violations
}

// CheckSleep reports waiting by the clock in tests and in what only tests use (testFolders): time.Sleep, and a bare
// receive from time.After.
func CheckSleep(testFolders []string, files []File) []string {
	var violations []string
	for _, f := range files {
		if !f.Test() && !slices.Contains(testFolders, f.Folder()) {
			continue
		}
		f.selectors(func(node ast.Node, left, name string) {
			if left == "time" && name == "Sleep" {
				violations = append(violations, f.at(node, "time.Sleep in a test"))
			}
		})
		ast.Inspect(f.Syntax, func(node ast.Node) bool {
			for _, statement := range statements(node) {
				if s, ok := statement.(*ast.ExprStmt); ok && receivesFrom(s.X, "time", "After") {
					violations = append(violations, f.at(s, "a test waits for time.After"))
				}
			}
			return true
		})
	}
	return violations
}

// statements are those that node holds in sequence; what a select chooses from is not among them.
func statements(node ast.Node) []ast.Stmt {
	switch node := node.(type) {
	case *ast.BlockStmt:
		return node.List
	case *ast.CaseClause:
		return node.Body
	case *ast.CommClause:
		return node.Body
	}
	return nil
}

// receivesFrom tells whether e is <-left.name(...).
func receivesFrom(e ast.Expr, left, name string) bool {
	receive, ok := e.(*ast.UnaryExpr)
	if !ok || receive.Op != token.ARROW {
		return false
	}
	call, ok := receive.X.(*ast.CallExpr)
	if !ok {
		return false
	}
	selector, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || selector.Sel.Name != name {
		return false
	}
	x, ok := selector.X.(*ast.Ident)
	return ok && x.Name == left
}

// CheckSkip reports tests that skip without a reason.
func CheckSkip(files []File) []string {
	var violations []string
	for _, f := range files {
		ast.Inspect(f.Syntax, func(node ast.Node) bool {
			call, ok := node.(*ast.CallExpr)
			if !ok {
				return true
			}
			selector, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			switch selector.Sel.Name {
			case "SkipNow":
				violations = append(violations, f.at(node, "SkipNow gives no reason"))
			case "Skip", "Skipf":
				if isTest(selector.X) && !hasReason(call.Args) {
					violations = append(violations, f.at(node, "%s without a reason", selector.Sel.Name))
				}
			}
			return true
		})
	}
	return violations
}

// isTest tells whether e looks like a testing.TB: it is called t, b, f or tb, or ends so.
func isTest(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.Ident:
		return slices.Contains([]string{"t", "b", "f", "tb"}, e.Name)
	case *ast.SelectorExpr:
		return isTest(e.Sel)
	}
	return false
}

func hasReason(arguments []ast.Expr) bool {
	if len(arguments) == 0 {
		return false
	}
	literal, ok := arguments[0].(*ast.BasicLit)
	return !ok || strings.Trim(literal.Value, "\"` ") != ""
}

// CheckFormat reports files that gofmt would change.
func CheckFormat(files []File) []string {
	var violations []string
	for _, f := range files {
		formatted, err := format.Source(f.Source)
		if err != nil {
			violations = append(violations, fmt.Sprintf("%s: %v", f.Path, err))
		} else if !bytes.Equal(formatted, f.Source) {
			violations = append(violations, f.Path+": gofmt would change it")
		}
	}
	return violations
}

// CheckDocs reports exported identifiers without a doc comment in the packages that other modules can import, and
// packages of any kind without a package comment. A comment on a group of constants or variables is one for all of it.
func CheckDocs(files []File) []string {
	var violations []string
	packages := map[string]bool{} // by folder: has a package comment
	for _, f := range files {
		if f.Test() {
			continue
		}
		packages[f.Folder()] = packages[f.Folder()] || f.Syntax.Doc != nil
		if !public(f.Folder()) || f.Syntax.Name.Name == "main" {
			continue
		}
		for _, declaration := range f.Syntax.Decls {
			violations = append(violations, f.undocumented(declaration)...)
		}
	}
	for folder, documented := range packages {
		if !documented {
			violations = append(violations, folder+": no package comment")
		}
	}
	return violations
}

// public tells whether other modules can import the package in the folder.
func public(folder string) bool {
	return !slices.Contains(strings.Split(folder, "/"), "internal")
}

func (f File) undocumented(declaration ast.Decl) []string {
	var violations []string
	report := func(name *ast.Ident) {
		if name.IsExported() {
			violations = append(violations, f.at(name, "%s has no doc comment", name.Name))
		}
	}
	switch d := declaration.(type) {
	case *ast.FuncDecl:
		if d.Doc == nil && (d.Recv == nil || exportedReceiver(d.Recv)) && !implements(d) {
			report(d.Name)
		}
	case *ast.GenDecl:
		if d.Doc != nil && (d.Tok != token.TYPE || !d.Lparen.IsValid()) {
			return nil
		}
		for _, spec := range d.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				if spec.Doc == nil {
					report(spec.Name)
				}
			case *ast.ValueSpec:
				if spec.Doc == nil && spec.Comment == nil {
					for _, name := range spec.Names {
						report(name)
					}
				}
			}
		}
	}
	return violations
}

func exportedReceiver(receiver *ast.FieldList) bool {
	t := receiver.List[0].Type
	if star, ok := t.(*ast.StarExpr); ok {
		t = star.X
	}
	if generic, ok := t.(*ast.IndexExpr); ok {
		t = generic.X
	}
	name, ok := t.(*ast.Ident)
	return ok && name.IsExported()
}

// implements tells whether a method is one whose meaning an interface of the standard library gives.
func implements(d *ast.FuncDecl) bool {
	return d.Recv != nil && slices.Contains([]string{"String", "Error", "Unwrap", "Is"}, d.Name.Name)
}

// CheckText reports lines of a file, of whatever kind, in which one of the patterns is found.
func CheckText(name string, content []byte, patterns map[string]*regexp.Regexp) []string {
	var violations []string
	for what, pattern := range patterns {
		for _, found := range pattern.FindAllIndex(content, -1) {
			line := 1 + bytes.Count(content[:found[0]], []byte("\n"))
			violations = append(violations, fmt.Sprintf("%s:%d: %s: %q", name, line, what, content[found[0]:found[1]]))
		}
	}
	return violations
}
