package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

// act runs heaptap in this process, with real processes, and returns what it wrote.
func act(t *testing.T, want ExitCode, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, talk bytes.Buffer
	env := System()
	env.Stdout, env.Stderr = &out, &talk
	env.Term = Terminal{Width: func() int { return 0 }}
	if code := ExitCode(Main(args, env)); code != want {
		t.Fatalf("heaptap %v: exit code %d, want %d\n%s%s", args, code, want, &out, &talk)
	}
	return out.String(), talk.String()
}

// startCat starts a program that has nothing to do with Python; answer proves that it goes on.
func startCat(t *testing.T) (pid string, answer func()) {
	t.Helper()
	c := exec.Command("cat")
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		c.Wait()
	})
	answer = func() {
		t.Helper()
		b := make([]byte, 5)
		if _, err := in.Write([]byte("word\n")); err != nil {
			t.Fatal(err)
		}
		if n, err := out.Read(b); err != nil || string(b[:n]) != "word\n" {
			t.Fatalf("cat said %q, %v", b[:n], err)
		}
	}
	answer() // it has started
	pid = strconv.Itoa(c.Process.Pid)
	for { // and waits for more: what it wrote may be here before it is done with writing
		call, err := os.ReadFile("/proc/" + pid + "/syscall")
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(string(call), "0 ") { // read
			return pid, answer
		}
		runtime.Gosched()
	}
}

func matches(t *testing.T, text string, patterns ...string) {
	t.Helper()
	for _, p := range patterns {
		if !regexp.MustCompile(p).MatchString(text) {
			t.Errorf("no %s in\n%s", p, text)
		}
	}
}

func TestCall(t *testing.T) {
	pid, answer := startCat(t)
	out, talk := act(t, ExitOK, "call", pid, "getpid()", `strlen("hello")`, "1 + 2 == 3", `open("/no/such/file", 0)`,
		"malloc_trim(0) >= 0")
	if want := "$1 = " + pid + "\n$2 = 5\n$3 = 1\n$4 = -1  errno 2 (ENOENT): no such file or directory\n$5 = 1\n"; out != want {
		t.Errorf("call printed\n%s, want\n%s", out, want)
	}
	if talk != "" {
		t.Errorf("call said %s", talk)
	}
	out, _ = act(t, ExitOK, "call", pid, "(long)getcwd(buf(8), 1)", "--json")
	var v evaluationValue
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Results) != 1 || v.Results[0].Value != 0.0 || len(v.Results[0].Buffers) != 1 || v.PauseNS <= 0 ||
		strconv.Itoa(v.Tid) != pid {
		t.Errorf("call --json: %s", out)
	}
	out, talk = act(t, ExitOK, "call", pid, "getpid()", "--trace")
	matches(t, talk, `call/stopped`, `call/armed`, `call/restored`, `call/detached`)
	if out != "$1 = "+pid+"\n" {
		t.Errorf("call --trace printed %s", out)
	}
	answer()
}

func TestExplain(t *testing.T) {
	pid, answer := startCat(t)
	out, talk := act(t, ExitOK, "call", pid, `fprintf(stderr, "%d %g\n", 1, 2.5)`, "--explain")
	matches(t, out, `call 1: +fprintf`, `symbol +libc\.so\.6!fprintf`, `found +dynamic`, `rdi`, `xmm0 +2\.5`, `al +1 vector`,
		`needs +the allocator, stdio`, `thread: thread `+pid+` \(cat\) is in read`, `stub:`, `syscall`, `call +\*%r15`)
	if talk != "" {
		t.Errorf("--explain said %s: was it called?", talk)
	}
	out, _ = act(t, ExitOK, "call", pid, "getpid()", "--explain", "--json")
	var v explanationValue
	if err := json.Unmarshal([]byte(out), &v); err != nil || len(v.Calls) != 1 || !v.Complete || v.Position == nil ||
		!v.Position.Safe {
		t.Errorf("--explain --json: %v in %s", err, out)
	}
	act(t, ExitOK, "call", pid, "1 + 1", "--explain")
	answer()
}

func TestCallErrors(t *testing.T) {
	pid, answer := startCat(t)
	for _, c := range []struct {
		code ExitCode
		args []string
		says string
	}{
		{ExitBadExpression, []string{"1 +"}, `(?m)^error: .*\n {9}1 \+\n {9} +\^$`},
		{ExitBadExpression, []string{"getpidd()"}, "no symbol \"getpidd\"; similar: .*getpid.*\n(?s:.*)heaptap symbols " + pid},
		{ExitBadExpression, []string{"getpid()", "--thread", "nobody"}, `no thread "nobody"\nhint: its threads: ` + pid + ` \(cat\)`},
		{ExitBadExpression, []string{"$rax = 1"}, `borrowed thread gets its own registers back`},
		{ExitCallFailed, []string{"abort()"}, `error: abort: SIGABRT(?s:.*)hint: it was in .*abort(?s:.*)goes on as before`},
		{ExitCallFailed, []string{"((int (*)(void))1)()"}, `0x1: SIGSEGV .*touching 0x1`},
		{ExitCallFailed, []string{"pause()", "--timeout", "200ms"}, `pause: not done after 200ms`},
		{ExitCallFailed, []string{"_exit(3)"}, `about to end the process \(status 3\)`},
		{ExitNotSafe, []string{"getpid()", "--when", "entry:malloc", "--timeout", "200ms"}, `no safe point within 200ms`},
		{ExitUsage, []string{"getpid()", "--when", "later"}, `--when "later": it is safe, now or entry:FUNCTION`},
		{ExitUsage, []string{"getpid()", "--timeout", "0s"}, `--timeout`},
		{ExitUsage, nil, `EXPRESSION is missing`},
	} {
		out, talk := act(t, c.code, append([]string{"call", pid}, c.args...)...)
		matches(t, talk, c.says)
		if out != "" {
			t.Errorf("%v printed %s", c.args, out)
		}
		answer()
	}
	act(t, ExitNoProcess, "call", "4194305", "getpid()")
}

func TestPeekPoke(t *testing.T) {
	pid, answer := startCat(t)
	out, _ := act(t, ExitOK, "peek", pid, "environ")
	matches(t, out, `^0x[0-9a-f]+  ([0-9a-f]{2} ){8} +\|.{8}\|\n$`)
	out, _ = act(t, ExitOK, "peek", pid, "$rsp", "32", "--as", "words")
	if n := strings.Count(out, "\n"); n != 4 {
		t.Errorf("%d words:\n%s", n, out)
	}
	out, _ = act(t, ExitOK, "peek", pid, "malloc", "16", "--as", "code")
	matches(t, out, `push|sub|mov`)
	out, _ = act(t, ExitOK, "call", pid, "(long)malloc(32)", "--json")
	at := fmt.Sprintf("%#x", int64(parse[struct{ Results []struct{ Value int64 } }](t, out).Results[0].Value))
	out, _ = act(t, ExitOK, "poke", pid, at, `"some\ttext\0"`)
	matches(t, out, `^wrote 10 bytes at `+at, `now +73 6f 6d 65 09 74 65 78 74 00`, `how +with 1 thread held for`)
	out, _ = act(t, ExitOK, "peek", pid, at, "10", "--as", "text")
	if want := "\"some\\ttext\\x00\"\n"; out != want {
		t.Errorf("text is %s, want %s", out, want)
	}
	out, _ = act(t, ExitOK, "poke", pid, at, "u64:0x1122334455667788", "--json")
	if k := parse[pokeValue](t, out); !k.Single || k.Threads != 0 || k.New != "8877665544332211" || !strings.HasPrefix(k.Old, "736f6d65") {
		t.Errorf("poke --json: %s", out)
	}
	_, talk := act(t, ExitBadExpression, "poke", pid, at, "00", "--expect", "01")
	matches(t, talk, `holds 88, not 01`)
	_, talk = act(t, ExitBadExpression, "poke", pid, "8", "00")
	matches(t, talk, `nothing is mapped at 0x8`)
	act(t, ExitBadExpression, "peek", pid, "8")
	act(t, ExitBadExpression, "peek", pid, "no_such_symbol")
	act(t, ExitUsage, "peek", pid, "environ", "much")
	act(t, ExitUsage, "peek", pid, "environ", "--as", "song")
	act(t, ExitUsage, "poke", pid, at, "9")
	act(t, ExitUsage, "poke", pid, at)
	answer()
}

func TestRegs(t *testing.T) {
	pid, answer := startCat(t)
	out, _ := act(t, ExitOK, "regs", pid)
	matches(t, out, `^thread `+pid+` \(cat\)\n`, `rip +0x[0-9a-f]+ +libc\.so\.6!.*read`, `orig_rax +0x0 +in read`, `eflags .*IF`)
	out, _ = act(t, ExitOK, "regs", pid, "--all", "--json")
	if v := parse[registersValue](t, out); len(v.Registers) < 50 || strconv.Itoa(v.Tid) != pid {
		t.Errorf("regs --json: %s", out)
	}
	out, _ = act(t, ExitOK, "regs", pid, "r11=$r11")
	matches(t, out, `^r11 of thread `+pid+` \(cat\): (0x\w+).*, was 0x`)
	_, talk := act(t, ExitBadExpression, "regs", pid, "nothing=1")
	matches(t, talk, `regs `+pid+` --all`)
	act(t, ExitBadExpression, "regs", pid, "al=256")
	act(t, ExitUsage, "regs", pid, "rax")
	answer()
}

func TestSymbols(t *testing.T) {
	pid, answer := startCat(t)
	out, _ := act(t, ExitOK, "symbols", pid, "libc!getpi*")
	matches(t, out, `^ADDRESS +SIZE +KIND +SYMBOL +FROM\n`, `function +libc\.so\.6!getpid@@GLIBC_2\.2\.5 +dynamic`)
	out, _ = act(t, ExitOK, "symbols", pid, "libc!getpid", "--json")
	found := parse[[]symbolValue](t, out)
	if len(found) == 0 {
		t.Fatalf("symbols --json: %s", out)
	}
	out, _ = act(t, ExitOK, "symbols", pid, found[0].Addr)
	matches(t, out, `getpid`)
	_, talk := act(t, ExitBadExpression, "symbols", pid, "nothing_is_called_so*")
	matches(t, talk, `no symbol of process `+pid+` matches`)
	answer()
}

func TestStack(t *testing.T) {
	h := startHolder(t)
	pid := strconv.Itoa(h.pid)
	out, _ := act(t, ExitOK, "stack", pid)
	matches(t, out, `^thread `+pid+` \(python3\.?\d*\), in read\n`, `(?m)^  0x[0-9a-f]{12} .*read.*libc`, `Py_BytesMain|Py_Main|main`,
		`(?m)^  python <module> at <string>:7$`)
	out, _ = act(t, ExitOK, "stack", pid, "--json")
	v := parse[stacksValue](t, out)
	if len(v.Threads) != 1 || len(v.Threads[0].Python) != 1 || v.Threads[0].GIL == nil || *v.Threads[0].GIL || v.PauseNS <= 0 {
		t.Errorf("stack --json: %s", out)
	}
	out, _ = act(t, ExitOK, "stack", pid, "--native", "--limit", "3")
	if strings.Contains(out, "python <module>") {
		t.Errorf("stack --native:\n%s", out)
	}
	_, talk := act(t, ExitNotSafe, "call", pid, `PyRun_SimpleString("keep()")`)
	matches(t, talk, `may only be called with Python's GIL`, `PyGILState_Ensure\(\)`)
	out, _ = act(t, ExitOK, "call", pid, "$g = PyGILState_Ensure()", `PyRun_SimpleString("keep()")`, "PyGILState_Release($g)")
	matches(t, out, `\$2 = 0\n`)
	h.keep(2)
}

func TestParseBytes(t *testing.T) {
	for text, want := range map[string]string{
		"90": "\x90", "90 91": "\x90\x91", "0x9091": "\x90\x91", `"a\n\0b\x01\"é"`: "a\n\x00b\x01\"é", "u16:258": "\x02\x01",
		"i8:-1": "\xff", "u32:0x10": "\x10\x00\x00\x00", "f32:1": "\x00\x00\x80\x3f", "f64:1": "\x00\x00\x00\x00\x00\x00\xf0\x3f",
	} {
		if got, err := parseBytes(text); err != nil || string(got) != want {
			t.Errorf("%s is % x, %v; want % x", text, got, err, want)
		}
	}
	for _, text := range []string{"", "9", "xy", `"`, `""`, `"a`, "u8:256", "u7:1", "f16:1", "i8:200", "q8:1", ":1", `"\q"`} {
		if got, err := parseBytes(text); err == nil {
			t.Errorf("%s is % x, want an error", text, got)
		}
	}
}
