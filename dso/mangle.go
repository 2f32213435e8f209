package dso

import (
	"strconv"
	"strings"

	"github.com/ianlancetaylor/demangle"
)

const maxDemangled = 15 // as a power of 2: bytes of a demangled name; what is longer stays as it is

// mangled reports whether a name may be one that C++ or Rust mangled (Itanium C++ ABI 5.1; Rust RFC 2603).
func mangled(name string) bool {
	return strings.HasPrefix(name, "_Z") || strings.HasPrefix(name, "_R") || strings.HasPrefix(name, "__Z")
}

// Demangle tells a name as C++ or Rust source would, with parameters: "ns::f(int)". It is "" for a name that is not
// mangled.
func Demangle(name string) string { return demangled(name) }

func demangled(name string, options ...demangle.Option) string {
	if !mangled(name) {
		return ""
	}
	s, err := demangle.ToString(name, append(options, demangle.MaxLength(maxDemangled))...)
	if err != nil {
		return ""
	}
	return s
}

// source is a name as somebody would write it in C++ or Rust, made comparable.
type source struct {
	text  string // without idle spaces
	ident string // as it stands in mangled names, with its length; "" if that cannot be told
}

// parseSource reads what may be a C++ or Rust name.
func parseSource(name string) source {
	s := source{text: canonical(name)}
	if ident := lastIdentifier(name); ident != "" {
		s.ident = ident
	}
	return s
}

// names reports whether a mangled name means s: with parameters, without them, or without template arguments too.
func (s source) names(name string) bool {
	if !s.within(name) {
		return false
	}
	for _, suffix := range []string{".lto_priv.", ".llvm."} {
		name, _, _ = strings.Cut(name, suffix)
	}
	full := canonical(demangled(name))
	switch {
	case full == "", strings.Contains(full, "[clone"): // a part of the function, or a variant that is called differently
		return false
	case full == s.text:
		return true
	case strings.HasPrefix(name, "_R"):
		return plainRust(full) == s.text
	case strings.HasSuffix(s.text, ")"): // a function template is demangled with its result
		_, rest, ok := strings.Cut(full, " ")
		return ok && rest == s.text
	}
	return canonical(demangled(name, demangle.NoParams)) == s.text ||
		canonical(demangled(name, demangle.NoParams, demangle.NoTemplateParams)) == s.text
}

// plainRust takes from a canonical Rust path what its newer mangling alone tells, generic arguments (f::<i32>) and the
// brackets round a type (<T>::f), so that it is written as the older one's is. "<T as Trait>::f" stays.
func plainRust(path string) string {
	for {
		i := strings.Index(path, "::<")
		if i < 0 {
			break
		}
		end := closing(path, i+2)
		if end < 0 {
			break
		}
		path = path[:i] + path[end+1:]
	}
	if end := closing(path, 0); end > 0 && !strings.Contains(path[:end], " as ") {
		return path[1:end] + path[end+1:]
	}
	return path
}

// closing is the place of the bracket that closes the one at i, -1 if there is none.
func closing(s string, i int) int {
	if i >= len(s) || s[i] != '<' {
		return -1
	}
	depth := 0
	for ; i < len(s); i++ {
		switch {
		case s[i] == '<':
			depth++
		case s[i] == '>' && s[i-1] != '-': // fn() -> T
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

// within is a quick test whether a mangled name can mean s: it contains its last identifier, with its length before. In
// Rust's newer scheme a "_" is put between where the identifier begins like a number.
func (s source) within(name string) bool {
	if s.ident == "" {
		return true
	}
	return strings.Contains(name, strconv.Itoa(len(s.ident))+s.ident) ||
		strings.Contains(name, strconv.Itoa(len(s.ident))+"_"+s.ident)
}

// canonical leaves only those spaces that separate two words, and says "const T" the way demanglers do: "T const".
func canonical(name string) string {
	var b strings.Builder
	var last byte
	space := false
	for i := range len(name) {
		c := name[i]
		if c == ' ' || c == '\t' {
			space = true
			continue
		}
		if space && isWord(last) && isWord(c) {
			b.WriteByte(' ')
		}
		space = false
		b.WriteByte(c)
		last = c
	}
	return eastConst(b.String())
}

// eastConst moves a const that stands before a plain type name behind it.
func eastConst(s string) string {
	const word = "const "
	var b strings.Builder
	for {
		i := strings.Index(s, word)
		if i < 0 {
			b.WriteString(s)
			return b.String()
		}
		if i > 0 && s[i-1] != '(' && s[i-1] != ',' && s[i-1] != '<' {
			b.WriteString(s[:i+len(word)])
			s = s[i+len(word):]
			continue
		}
		b.WriteString(s[:i])
		s = s[i+len(word):]
		n := 0
		for n < len(s) && (isWord(s[n]) || s[n] == ':' || s[n] == ' ') {
			n++
		}
		b.WriteString(s[:n] + " const")
		s = s[n:]
	}
}

func isWord(c byte) bool {
	return c == '_' || c == '$' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c >= 0x80
}

// lastIdentifier is the identifier that a mangled form of name must contain: the last one of its path. "" where there
// is no telling: operators, closures, and names for which the C++ ABI has abbreviations.
func lastIdentifier(name string) string {
	if strings.Contains(name, "operator") || strings.ContainsAny(name, "{}'") {
		return ""
	}
	name = withoutTail(name)
	i := strings.LastIndexByte(name, ':')
	ident := strings.TrimPrefix(strings.TrimSpace(name[i+1:]), "~")
	if j := strings.LastIndexByte(ident, ' '); j >= 0 {
		ident = ident[j+1:]
	}
	switch ident {
	case "string", "basic_string", "allocator", "istream", "basic_istream", "ostream", "basic_ostream", "iostream",
		"basic_iostream": // Itanium C++ ABI 5.1.9: Ss, Sa, Si…
		return ""
	}
	for k := range len(ident) {
		if !isWord(ident[k]) || ident[k] >= 0x80 {
			return ""
		}
	}
	return ident
}

// withoutTail cuts parameters and template arguments from the end of a name: what follows the first parenthesis, and a
// closing angle bracket with all that it closes.
func withoutTail(name string) string {
	depth, end := 0, len(name)
	for i := range len(name) {
		switch name[i] {
		case '<':
			depth++
		case '>':
			depth--
		case '(':
			if depth == 0 && end == len(name) {
				end = i
			}
		}
	}
	name = strings.TrimSpace(name[:end])
	for strings.HasSuffix(name, ">") {
		depth := 0
		i := len(name) - 1
		for ; i >= 0; i-- {
			if name[i] == '>' {
				depth++
			} else if name[i] == '<' {
				if depth--; depth == 0 {
					break
				}
			}
		}
		if i < 0 {
			return name
		}
		name = name[:i]
	}
	return name
}
