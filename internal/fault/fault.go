// Package fault names the instants of an injection at which a test may kill, stop or fail heaptap, so that "the target
// never pays for our mistakes" is tested at each of them and not only at random ones.
//
// The environment says what happens: HEAPTAP_FAULT="NAME[#N]=kill|stop|error" acts at the N-th hit of the point NAME
// (at every hit without #N); several are separated by commas. HEAPTAP_FAULT_LOG names a file to which each hit appends
// the point's name and a newline, so that a test proves that a point is reached. With neither set a point costs one
// predictable branch.
package fault

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Names of the environment variables.
const (
	Env    = "HEAPTAP_FAULT"
	LogEnv = "HEAPTAP_FAULT_LOG"
)

// InjectedError is what [Err] returns where the environment asks for an error.
type InjectedError struct{ Point string }

func (e *InjectedError) Error() string { return "injected fault at " + e.Point }

type action int

const (
	kill action = iota
	stop
	fail
)

type rule struct {
	point  string
	hit    int64 // 1 for the first; 0 for every hit
	action action
	hits   atomic.Int64
}

type plan struct {
	rules []*rule
	log   *os.File
}

// active is nil where the environment asks for nothing.
var active = sync.OnceValue(func() *plan {
	p, err := parse(os.Getenv(Env), os.Getenv(LogEnv))
	if err != nil {
		// Only a test sets these; going on without its fault would let it pass.
		fmt.Fprintln(os.Stderr, "fault:", err)
		os.Exit(2)
	}
	return p
})

// Point marks the instant name: the process may be killed or stopped here.
func Point(name string) {
	if p := active(); p != nil {
		p.hit(name)
	}
}

// Err is Point at a place that may also fail: it returns an *[InjectedError] where the environment asks for an error.
func Err(name string) error {
	if p := active(); p != nil && p.hit(name) {
		return &InjectedError{name}
	}
	return nil
}

func parse(spec, logPath string) (*plan, error) {
	if spec == "" && logPath == "" {
		return nil, nil
	}
	p := &plan{}
	for item := range strings.SplitSeq(spec, ",") {
		if item == "" {
			continue
		}
		r, err := parseRule(item)
		if err != nil {
			return nil, err
		}
		p.rules = append(p.rules, r)
	}
	if logPath == "" {
		return p, nil
	}
	f, err := os.OpenFile(logPath, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", LogEnv, err)
	}
	p.log = f
	return p, nil
}

func parseRule(item string) (*rule, error) {
	where, what, ok := strings.Cut(item, "=")
	if !ok || where == "" {
		return nil, fmt.Errorf("%s %q: want NAME[#N]=kill|stop|error", Env, item)
	}
	r := &rule{point: where}
	if name, n, ok := strings.Cut(where, "#"); ok {
		hit, err := strconv.ParseInt(n, 10, 64)
		if err != nil || hit < 1 {
			return nil, fmt.Errorf("%s %q: bad count", Env, item)
		}
		r.point, r.hit = name, hit
	}
	switch what {
	case "kill":
		r.action = kill
	case "stop":
		r.action = stop
	case "error":
		r.action = fail
	default:
		return nil, fmt.Errorf("%s %q: unknown action %q", Env, item, what)
	}
	return r, nil
}

// hit acts on one hit of a point and reports whether it should fail.
func (p *plan) hit(name string) (failed bool) {
	if p.log != nil {
		fmt.Fprintln(p.log, name) // one write of one line: O_APPEND keeps lines of several processes whole
	}
	for _, r := range p.rules {
		if r.point != name {
			continue
		}
		if n := r.hits.Add(1); r.hit != 0 && n != r.hit {
			continue
		}
		switch r.action {
		case kill:
			unix.Kill(os.Getpid(), unix.SIGKILL)
		case stop:
			stopHere()
		case fail:
			failed = true
		}
	}
	return failed
}

// stopHere stops the process before it does anything else. A signal to the process may be taken by another thread, and
// this one would run on until that one comes to it.
func stopHere() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGSTOP)
}
