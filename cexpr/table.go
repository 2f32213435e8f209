package cexpr

import (
	_ "embed"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"syscall"
)

// prototypes are declarations of what is called from outside most: of libc, and of CPython's C API. One declaration
// stands on a line, so that a name is found by searching for it and only its line is parsed.
//
//go:embed prototypes.txt
var prototypes string

// entry finds the line that declares name by one of the forms: a function "name(", a variable "name;" or "name[", a
// type "name;" after typedef, "struct name {", a constant of an enum, a macro.
func entry(pattern, name string) string {
	re, err := regexp.Compile(strings.ReplaceAll(pattern, "NAME", regexp.QuoteMeta(name)))
	if err != nil {
		return ""
	}
	for rest := prototypes; ; {
		i := strings.Index(rest, name)
		if i < 0 {
			return ""
		}
		line := rest[strings.LastIndexByte(rest[:i], '\n')+1:]
		end := strings.IndexByte(rest[i:], '\n')
		if end < 0 {
			end = len(rest) - i
		}
		line = line[:len(line)-len(rest)+i+end]
		if re.MatchString(line) {
			return line
		}
		rest = rest[i+end:]
	}
}

// Forms of lines in the table.
const (
	functionLine = `^[^#(){]*\bNAME\([^()]*(?:\([^()]*\)[^()]*)*\);|^[^#(){]*\(\*NAME\(`
	variableLine = `^extern [^#(){]*\bNAME(?:\[\d*\])*;`
	typedefLine  = `^typedef .*\bNAME(?:\[\d*\])*;|^typedef .*\(\*?NAME\)\(`
	taggedLine   = `^NAME \{`
	constantLine = `^enum.*[{ ]NAME(?:,| =| \})`
	macroLine    = `^#define NAME `
)

// builtinType is the table's line that defines a type name, or "".
func builtinType(name string) string { return entry(typedefLine, name) }

// declarationIn parses one line of the table; the one declared is the last.
func declarationIn(line string) (declaration, error) {
	line = strings.TrimPrefix(strings.TrimPrefix(line, "typedef "), "extern ")
	all, err := tokens(line)
	if err != nil {
		return declaration{}, err
	}
	p := &parser{src: line, tokens: all}
	list, err := p.declarations()
	if err == nil && p.peek().kind != endToken {
		err = p.unexpected("end of the declaration")
	}
	if err != nil {
		return declaration{}, fmt.Errorf("built-in declaration: %w", err)
	}
	return list[len(list)-1], nil
}

// maxMacros bounds types and macros that name each other.
const maxMacros = 16

// inTable evaluates something of the table, whose text is not what the user wrote.
func (r *run) inTable(do func(*run) error) error {
	inner := *r
	inner.macros++
	if inner.macros > maxMacros {
		return errors.New("the built-in declarations name each other in a circle")
	}
	err := do(&inner)
	r.plans = inner.plans
	var known *EvalError
	if errors.As(err, &known) {
		err = known.Err // its position is one in the table
	}
	return err
}

// tableDeclaration is the type of a function or variable in the table, nil if it is not there.
func (r *run) tableDeclaration(name string) (t *Type, err error) {
	line := entry(functionLine, name)
	if line == "" {
		line = entry(variableLine, name)
	}
	if line == "" && strings.HasPrefix(name, "PyExc_") {
		line = "PyObject *name;"
	}
	if line == "" {
		return nil, nil
	}
	d, err := declarationIn(line)
	if err != nil {
		return nil, err
	}
	err = r.inTable(func(r *run) error {
		t, err = r.typeOf(d.typ)
		return err
	})
	return t, err
}

// tableType is a type of the table: "size_t", "struct timeval"; nil if it is not there.
func (r *run) tableType(name string) (t *Type, err error) {
	if strings.Contains(name, " ") {
		line := entry(taggedLine, name)
		if line == "" {
			return nil, nil
		}
		d, err := declarationIn(line)
		if err != nil {
			return nil, err
		}
		err = r.inTable(func(r *run) error {
			t, err = r.typeOf(d.typ)
			return err
		})
		return t, err
	}
	line := builtinType(name)
	if line == "" {
		return nil, nil
	}
	d, err := declarationIn(line)
	if err != nil {
		return nil, err
	}
	err = r.inTable(func(r *run) error {
		// Structures behind a typedef stay incomplete until they are looked into.
		if d.typ.form == namedSyntax && strings.Contains(d.typ.name, " ") {
			tag, _, _ := strings.Cut(d.typ.name, " ")
			t = incomplete(tag, d.typ.name)
			return nil
		}
		t, err = r.typeOf(d.typ)
		return err
	})
	if err != nil {
		return nil, err
	}
	if w := characterNamed(name); w != nil {
		return w, nil
	}
	return &Type{Kind: Typedef, Name: name, Elem: t}, nil
}

// characterNamed is a wide character type: those are typedefs in C, which are printed as characters.
func characterNamed(name string) *Type {
	switch name {
	case "wchar_t":
		return characterType("L")
	case "char16_t":
		return characterType("u")
	case "char32_t":
		return characterType("U")
	}
	return nil
}

// tableName evaluates a constant or macro of the table.
func (r *run) tableName(name string) (v Value, ok bool, err error) {
	if line := entry(constantLine, name); line != "" {
		d, err := declarationIn(line)
		if err != nil {
			return v, false, err
		}
		t, err := r.defined(d.typ)
		if err != nil {
			return v, false, err
		}
		n, ok := t.enumerator(name)
		return intValue(n, intType()), ok, nil
	}
	line := entry(macroLine, name)
	if line == "" {
		return v, false, nil
	}
	p, err := parse(strings.TrimPrefix(line, "#define "+name+" "))
	if err != nil {
		return v, false, err
	}
	err = r.inTable(func(r *run) error {
		r.src = p.src
		v, err = r.eval(p.statements[0].expression)
		return err
	})
	return v, err == nil, err
}

// errnoPlace is errno as something to assign to.
func (r *run) errnoPlace() (Value, error) {
	v, ok, err := r.tableName("errno")
	if err == nil && !ok {
		err = errors.New("errno is not known here")
	}
	return v, err
}

// ErrnoText is the name of an error number, "ENOENT", and its meaning; "" where it is not known.
func ErrnoText(number int) (name, message string) {
	d, err := declarationIn(entry(constantLine, "EPERM"))
	if err != nil {
		return "", ""
	}
	t, err := new(run).defined(d.typ)
	if err != nil {
		return "", ""
	}
	for _, e := range t.Enumerated {
		if e.Value == int64(number) && name == "" {
			name, message = e.Name, syscall.Errno(number).Error()
		}
	}
	return name, message
}
