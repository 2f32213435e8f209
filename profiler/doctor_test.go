package profiler

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/heaptap/heaptap/proc"
	"github.com/heaptap/heaptap/ptrace"
)

// What yama says depends on its scope, our capability, and whether the kernel has already refused.
func TestYama(t *testing.T) {
	denied := fs.ErrPermission
	for _, c := range []struct {
		scope   int
		capable bool
		denied  error
		want    Verdict
		fact    string
	}{
		{-1, false, nil, Fine, "not in this kernel"},
		{0, false, denied, Fine, "is 0"},
		{1, true, nil, Fine, "is 1"},
		{1, false, nil, Warns, "ancestors"},
		{1, false, denied, Blocks, "ancestors"},
		{2, false, nil, Warns, "only CAP_SYS_PTRACE"},
		{2, false, denied, Blocks, "only CAP_SYS_PTRACE"},
		{2, true, nil, Fine, "is 2"},
		{3, true, nil, Blocks, "until the next boot"},
	} {
		e := &examiner{facts: ptrace.Facts{YamaScope: c.scope, HasPtraceCap: c.capable}}
		got := e.yama(c.denied)
		if got.Verdict != c.want || !strings.Contains(got.Fact, c.fact) {
			t.Errorf("scope %d, capable %v, denied %v: %+v", c.scope, c.capable, c.denied, got)
		}
		if (got.Verdict == Fine) != (got.WayRound == "") {
			t.Errorf("scope %d, capable %v, denied %v: way round %q", c.scope, c.capable, c.denied, got.WayRound)
		}
	}
}

// A refusal is explained by the rule that refuses, the first that applies.
func TestAccess(t *testing.T) {
	reachable := ptrace.Facts{SameUser: true, SameUserNS: true, Dumpable: true}
	with := func(change func(*patient)) *patient {
		p := &patient{facts: reachable, self: &examiner{}}
		const us = 4000007
		p.status.Uid = [4]int{us, us, us, us}
		p.self.status.Uid = p.status.Uid
		change(p)
		return p
	}
	for _, c := range []struct {
		name string
		p    *patient
		want string
	}{
		{"user", with(func(p *patient) { p.status.Uid[1] = 4000008 }), "belongs to user 4000008"},
		{"namespace", with(func(p *patient) { p.facts.HasPtraceCap, p.facts.SameUserNS = true, false }), "user namespace"},
		{"capabilities", with(func(p *patient) { p.status.CapEff = 1 << 12 }), "capabilities"},
		{"dumpable", with(func(p *patient) { p.facts.Dumpable = false }), "not dumpable"},
		{"profile", with(func(p *patient) { p.facts.Security = "docker-default (enforce)" }), "docker-default"},
	} {
		got := c.p.access(fs.ErrPermission)
		if got.Verdict != Blocks || !strings.Contains(got.Fact, c.want) || got.WayRound == "" {
			t.Errorf("%s: %+v, want %q", c.name, got, c.want)
		}
		if ok := c.p.access(nil); ok.Verdict != Fine {
			t.Errorf("%s, permitted: %+v", c.name, ok)
		}
	}
}

func TestExamine(t *testing.T) {
	pid := holdPython(t)
	for _, of := range []int{0, pid} {
		checks, err := Examine(t.Context(), of)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for _, c := range checks {
			if seen[c.Name] {
				t.Errorf("process %d: two checks %q", of, c.Name)
			}
			seen[c.Name] = true
			if c.Verdict == Blocks || c.Fact == "" {
				t.Errorf("process %d: %+v", of, c)
			}
		}
		for _, name := range []string{"kernel", "yama", "privilege"} {
			if !seen[name] {
				t.Errorf("process %d: no check %q", of, name)
			}
		}
		if seen["python"] != (of != 0) {
			t.Errorf("process %d: check of python: %v", of, seen["python"])
		}
	}
	if _, err := Examine(t.Context(), 1<<22+1); !errors.Is(err, proc.ErrGone) {
		t.Errorf("error %v, want ErrGone", err)
	}
}
