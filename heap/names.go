package heap

import (
	"path"
	"regexp"
	"strconv"
	"strings"
)

// ModuleOf derives from a code object's file the module that it belongs to, and whether that is somebody's own code,
// neither of the standard library nor installed in site-packages or dist-packages.
//
// The module of a library's file is its dotted path below the library's folder: "json.decoder", "numpy.core.numeric".
// Where own code is imported from cannot be seen in its path, therefore its module is the whole path, dotted:
// "srv.shop.session". Names that are no paths stay as they are: "<string>".
func ModuleOf(file string) (module string, own bool) {
	if name, ok := strings.CutPrefix(file, "<frozen "); ok {
		return strings.TrimSuffix(name, ">"), false
	}
	if file == "" || file[0] == '<' {
		// <string> is python -c and exec(); other names in brackets are code that libraries make.
		return file, file == "<string>" || file == "<stdin>"
	}
	path := strings.Split(strings.Trim(file, "/"), "/")
	from, library := libraryRoot(path)
	path = path[from:]
	last := path[len(path)-1]
	if dot := strings.IndexByte(last, '.'); dot > 0 {
		last = last[:dot]
	}
	path = append(path[:len(path)-1:len(path)-1], last)
	if last == "__init__" && len(path) > 1 {
		path = path[:len(path)-1]
	}
	return strings.Join(path, "."), !library
}

// libraryRoot returns where in a path the part below a library's folder begins.
func libraryRoot(path []string) (from int, library bool) {
	for i := len(path) - 2; i >= 0; i-- {
		switch folder := path[i]; {
		case folder == "site-packages", folder == "dist-packages":
			return i + 1, true
		case standardFolder(folder) && i > 0 && strings.HasPrefix(path[i-1], "lib"),
			folder == "Lib" && i > 0 && strings.HasPrefix(path[i-1], "Python-"),
			strings.HasSuffix(folder, ".zip") && strings.HasPrefix(folder, "python"):
			if path[i+1] == "lib-dynload" && i+2 < len(path) {
				i++
			}
			return i + 1, true
		}
	}
	return 0, false
}

// standardFolder tells whether a folder in lib is that of the standard library: python3.11, python2.7, python3.14t.
func standardFolder(name string) bool {
	version, ok := strings.CutPrefix(name, "python")
	return ok && version != "" && strings.Trim(version, "0123456789.td") == ""
}

// textKind says how names of some kind are compared with a pattern. This is the one place that knows.
type textKind int

const (
	// dottedName: the whole name or what follows one of its dots. "User" and "models.User" are app.models.User. Of C++ and
	// Rust, what follows a "::", with or without types: "push_back" is std::vector<int>::push_back(int const&).
	dottedName textKind = iota
	// typeName: as dottedName, and for blocks that objects of the type own: "list" is "list (items)", too. With a role in
	// brackets the pattern stands for just those.
	typeName
	// moduleName: the module or a package around it. "json" is json.decoder. Of own code, whose modules have their
	// path for a name, the pattern may begin at any part: "shop" is srv.shop.session.
	moduleName
	// filePath: a part of the path, of whole components: "session.py", "shop/session.py", "shop", "/srv/shop". In
	// patterns * does not pass a /, ** does.
	filePath
	// threadName: the name, or the number of the thread that the label has in brackets.
	threadName
	// processName: the number of the process, its name, or the program that the name or command begins with: "4711",
	// "gunicorn: worker [shop]" and "gunicorn" are 4711 gunicorn: worker [shop].
	processName
	// plainWord: the whole.
	plainWord
)

// absent is the pattern that stands for no name at all.
const absent = "-"

// pattern is a name as a filter writes it: * and ? stand for any text and any character, - for no name.
type pattern struct {
	text string
	kind textKind
	glob *regexp.Regexp // nil where text has no wildcards
}

func newPattern(text string, kind textKind) *pattern {
	p := &pattern{text: text, kind: kind}
	switch kind {
	case typeName:
		p.text = strings.TrimPrefix(text, "builtins.")
	case filePath:
		if trimmed := strings.TrimRight(text, "/"); trimmed != "" {
			p.text = trimmed
		}
	}
	if strings.ContainsAny(text, "*?") {
		p.glob = regexp.MustCompile(p.expression())
	}
	return p
}

// expression is the regular expression of a pattern with wildcards.
func (p *pattern) expression() string {
	before, after, star, one := `^`, `$`, `.*`, `.`
	switch p.kind {
	case dottedName:
		before = `(^|\.|::)`
	case typeName:
		before = `(^|\.)`
	case moduleName:
		before, after = `(^|\.)`, `(\.|$)`
	case filePath:
		after, star, one = `(/|$)`, `[^/]*`, `[^/]`
		if !strings.HasPrefix(p.text, "/") {
			before = `(^|/)`
		}
	}
	var b strings.Builder
	b.WriteString("(?s)" + before)
	for i := 0; i < len(p.text); i++ {
		switch c := p.text[i]; {
		case c == '*' && strings.HasPrefix(p.text[i:], "**"):
			b.WriteString(".*")
			i++
		case c == '*':
			b.WriteString(star)
		case c == '?':
			b.WriteString(one)
		default:
			end := i + 1
			for end < len(p.text) && p.text[end] != '*' && p.text[end] != '?' {
				end++
			}
			b.WriteString(regexp.QuoteMeta(strings.ToValidUTF8(p.text[i:end], "\uFFFD")))
			i = end - 1
		}
	}
	return b.String() + after
}

// matches tells whether the pattern stands for the name.
func (p *pattern) matches(name string) bool {
	if name == "" || p.text == absent {
		return name == "" && p.text == absent
	}
	switch p.kind {
	case typeName:
		name = strings.TrimPrefix(name, "builtins.")
		if owner, role, owned := strings.Cut(name, " ("); owned && role != "" && !strings.Contains(p.text, " (") {
			name = owner
		}
		return p.either(name, strings.HasSuffix(name, "."+p.text))
	case dottedName:
		if p.either(name, strings.HasSuffix(name, "."+p.text) || strings.HasSuffix(name, "::"+p.text)) {
			return true
		}
		plain := PlainName(name)
		return plain != name && p.either(plain, strings.HasSuffix(plain, "::"+p.text))
	case moduleName:
		return p.either(name, strings.HasPrefix(name, p.text+"."))
	case filePath:
		if strings.HasPrefix(p.text, "/") {
			return p.either(name, strings.HasPrefix(name, p.text+"/"))
		}
		return p.either(name, strings.Contains("/"+name+"/", "/"+p.text+"/"))
	case threadName:
		base, id := splitThread(name)
		return p.either(name, base == p.text || id == p.text) || p.glob != nil && p.glob.MatchString(base)
	case processName:
		pid, base := ProcessName(name)
		program, _, _ := strings.Cut(base, " ")
		program = path.Base(strings.TrimSuffix(program, ":"))
		return p.either(name, base == p.text || program == p.text || pid > 0 && strconv.FormatInt(pid, 10) == p.text) ||
			p.glob != nil && (p.glob.MatchString(base) || p.glob.MatchString(program))
	}
	return p.either(name, false)
}

// matchesModule tells whether the pattern, of modules, stands for a module.
func (p *pattern) matchesModule(module string, own bool) bool {
	switch {
	case own && p.glob == nil && module != "":
		return strings.Contains("."+module+".", "."+p.text+".")
	case !own && p.glob != nil:
		at := p.glob.FindStringIndex(module)
		return at != nil && at[0] == 0
	}
	return p.matches(module)
}

func (p *pattern) either(name string, other bool) bool {
	if p.glob != nil {
		return p.glob.MatchString(name)
	}
	return name == p.text || other
}

// splitThread takes a label "worker (4711) and 2 before it" apart.
func splitThread(label string) (name, id string) {
	i := strings.LastIndex(label, " (")
	if i < 0 {
		return label, ""
	}
	id, _, closed := strings.Cut(label[i+2:], ")")
	if !closed || id == "" || strings.Trim(id, "0123456789") != "" {
		return label, ""
	}
	return label[:i], id
}
