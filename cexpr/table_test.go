package cexpr

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// tableLines are the lines of the built-in declarations that declare something.
func tableLines() []string {
	var lines []string
	for line := range strings.Lines(prototypes) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// TestTable parses every built-in declaration and finds it by its name.
func TestTable(t *testing.T) {
	m := &fake{}
	r := &run{m: m, env: &Env{}}
	functions := 0
	for _, line := range tableLines() {
		if rest, ok := strings.CutPrefix(line, "#define "); ok {
			name, body, _ := strings.Cut(rest, " ")
			if _, err := Parse(body); err != nil || entry(macroLine, name) != line {
				t.Errorf("%s: %v, found %q", line, err, entry(macroLine, name))
			}
			continue
		}
		d, err := declarationIn(line)
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		typ, err := r.typeOf(d.typ)
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		switch {
		case strings.HasPrefix(line, "typedef "):
			found, err := r.tableType(d.name)
			if err != nil || found == nil || builtinType(d.name) != line {
				t.Errorf("%s: found %q, %v, %v", line, builtinType(d.name), found, err)
			}
		case typ.Kind == Enumeration:
			for _, e := range typ.Enumerated {
				if v, ok, err := r.tableName(e.Name); err != nil || !ok || v.number().Int64() != e.Value {
					t.Errorf("%s: %v, %v, %v; want %d", e.Name, v, ok, err, e.Value)
				}
			}
		case typ.Kind == Struct:
			if found, err := r.tableType(typ.Name); err != nil || found == nil || found.Size != typ.Size || typ.Size == 0 {
				t.Errorf("%s: %v, %v", line, found, err)
			}
		default:
			found, err := r.tableDeclaration(d.name)
			if err != nil || found == nil || found.String() != typ.String() {
				t.Errorf("%s: found %v, %v", line, found, err)
			}
			if typ.Kind == FunctionType {
				functions++
			}
		}
	}
	if functions < 800 {
		t.Errorf("only %d functions", functions)
	}
}

// TestTableHeaders compiles the built-in declarations after the headers that they come from: what differs is an error.
func TestTableHeaders(t *testing.T) {
	var source strings.Builder
	source.WriteString(`#define _GNU_SOURCE
#include <Python.h>
#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <gnu/libc-version.h>
#include <grp.h>
#include <langinfo.h>
#include <libintl.h>
#include <limits.h>
#include <link.h>
#include <locale.h>
#include <malloc.h>
#include <math.h>
#include <mcheck.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/auxv.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/shm.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/times.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <syslog.h>
#include <time.h>
#include <uchar.h>
#include <unistd.h>
#include <wchar.h>
`)
	headers := strings.Count(source.String(), "\n")
	macros := regexp.MustCompile(`\b(errno|h_errno|stdin|stdout|stderr)\b`)
	var lines []string
	r := &run{m: &fake{}, env: &Env{}}
	for _, line := range tableLines() {
		d, err := declarationIn(line)
		switch {
		case strings.HasPrefix(line, "#define"), strings.Contains(line, " uchar;"), err != nil,
			macros.MatchString(line) && strings.HasPrefix(line, "extern"):
			line = ""
		case strings.HasPrefix(line, "enum"):
			typ, err := r.typeOf(d.typ)
			if err != nil {
				t.Fatal(err)
			}
			line = ""
			for _, e := range typ.Enumerated {
				line += fmt.Sprintf("_Static_assert((int)%s == %d, %q);", e.Name, e.Value, e.Name)
			}
		case strings.HasPrefix(line, "struct") && d.typ.form == definedSyntax,
			strings.HasPrefix(line, "typedef") && (d.typ.form == definedSyntax):
			typ, err := r.typeOf(d.typ)
			if err != nil {
				t.Fatal(err)
			}
			name := typ.Name
			if d.name != "" {
				name = d.name
			}
			line = fmt.Sprintf("_Static_assert(sizeof(%s) == %d, %q);", name, typ.Size, name)
			for _, f := range typ.Fields {
				if strings.HasPrefix(name, "struct ") && f.Name != "" && !strings.HasPrefix(f.Name, "_") {
					line += fmt.Sprintf("_Static_assert(offsetof(%s, %s) == %d, %q);", name, f.Name, f.Offset, f.Name)
				}
			}
		case strings.HasPrefix(line, "typedef "):
			size, err := r.typeOf(d.typ)
			if err != nil {
				t.Fatal(err)
			}
			if n, err := size.size(); err == nil {
				line = fmt.Sprintf("_Static_assert(sizeof(%s) == %d, %q);", d.name, n, d.name)
			} else {
				line = ""
			}
		case d.typ.form == functionSyntax:
			line = "#undef " + d.name + "\n" + line
		}
		lines = append(lines, strings.Split(line, "\n")...)
	}
	source.WriteString(strings.Join(lines, "\n") + "\n")
	file := filepath.Join(t.TempDir(), "table.c")
	if err := os.WriteFile(file, []byte(source.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("gcc", "-std=gnu17", "-fsyntax-only", "-fmax-errors=0", "-w", "-I", "/usr/include/python3.11",
		file).CombinedOutput()
	if err == nil {
		return
	}
	// What headers of one version or one standard write otherwise, with the same meaning for a call.
	same := []string{"PyGILState_Ensure", "PyGILState_Release", "getpriority", "setpriority", "getrlimit", "setrlimit",
		"prlimit", "setitimer", "getitimer", // enumerations for int
		"sched_getaffinity", "sched_setaffinity", "dl_iterate_phdr", "sigaction", "sigaltstack", "select", // void *
		"PyCompilerFlags", "_Py_TrueStruct", "_Py_FalseStruct", "PyRun_SimpleStringFlags", "PyRun_StringFlags"}
	for line := range strings.Lines(string(out)) {
		var number, column int
		_, message, ok := strings.Cut(line, ": error: ")
		if _, err := fmt.Sscanf(strings.TrimPrefix(line, file), ":%d:%d:", &number, &column); !ok || err != nil {
			if strings.Contains(line, "fatal error") {
				t.Error(line)
			}
			continue
		}
		known := false
		for _, name := range same {
			known = known || strings.Contains(message, "‘"+name+"’") || strings.Contains(message, "'"+name+"'")
		}
		if !known && number > headers {
			t.Errorf("%s: %s", strings.TrimSpace(message), lines[number-headers-1])
		}
	}
}
