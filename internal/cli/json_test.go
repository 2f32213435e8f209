package cli

import (
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// Every field that --json prints is in its help, which is where scripts learn of them.
func TestJSONHelp(t *testing.T) {
	for _, v := range []any{
		pythonValue{}, candidateValue{}, attachmentValue{}, totalsValue{}, statusValue{}, dumpValue{}, detachmentValue{},
		checkValue{}, checksValue{},
	} {
		typ := reflect.TypeOf(v)
		for f := range typ.Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if !regexp.MustCompile(`\b`+name+`\b`).MatchString(jsonHelp) || name == "" {
				t.Errorf("%v.%s: field %q is not in the help", typ, f.Name, name)
			}
		}
	}
}
