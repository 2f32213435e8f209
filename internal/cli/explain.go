package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/heaptap/heaptap/agent"
	"github.com/heaptap/heaptap/call"
	"github.com/heaptap/heaptap/cpython"
	"github.com/heaptap/heaptap/dso"
	"github.com/heaptap/heaptap/heap"
	"github.com/heaptap/heaptap/inject"
	"github.com/heaptap/heaptap/internal/demo"
	"github.com/heaptap/heaptap/proc"
	"github.com/heaptap/heaptap/profiler"
	"github.com/heaptap/heaptap/ptrace"
)

// A rule turns one kind of fact into an exit code and what the user can do about it.
type rule struct {
	code  ExitCode
	match func(error) (hints []string, ok bool)
	// examine says that package profiler's checks of the process know better than any fixed text what is in the way.
	examine bool
}

// rules holds the way round for every fact, most important first: the first that matches decides. "PID" in a hint
// stands for the process that the command was about.
func rules() []rule {
	return []rule{
		as(ExitNotRestored, func(*profiler.RestoreError) []string { return notRestored }),
		as(ExitNotRestored, func(*call.RestoreError) []string { return notRestored }),
		as(ExitInterrupted, func(*interruptedError) []string { return nil }),
		{code: ExitNoCommand, match: noCommand},
		{code: ExitNotExecutable, match: notExecutable},
		as(ExitUsage, func(e *usageError) []string {
			return []string{cmp.Or(e.Hint, "`"+e.Command+" --help` shows how")}
		}),
		as(ExitUsage, func(*heap.FilterError) []string { return []string{"`heaptap help filters` has the language"} }),
		as(ExitNoMatch, func(e *heap.NoMatchError) []string { return e.There }),
		as(ExitFindings, func(*findings) []string { return nil }),
		{code: ExitCallFailed, match: calleeFailed},
		{code: ExitNotSafe, match: notSafe},

		is(ExitNoProcess, proc.ErrReused,
			"the process ended and its pid went to another: `heaptap ps` lists who is there now"),
		is(ExitNoProcess, proc.ErrZombie, "its memory is gone already; its parent has yet to collect it"),
		is(ExitNoProcess, call.ErrChanged, "what ran there before is gone; `heaptap ps` lists what runs now"),
		is(ExitNoProcess, ptrace.ErrGone, "it ended while heaptap was at it"),
		is(ExitNoProcess, proc.ErrGone, "`heaptap ps` lists the Python processes that can be seen from here"),

		is(ExitBusy, profiler.ErrBusy, "only one heaptap can work on a process at a time: try again when the other is done"),
		is(ExitNotTracked, profiler.ErrNotTracked,
			"`heaptap attach PID` starts tracking; `heaptap ps` shows what is tracked"),
		is(ExitNotTracked, profiler.ErrIncomplete, "`heaptap repair PID` gives back what is left, then attach anew"),
		as(ExitNotTracked, func(*profiler.OtherVersionError) []string {
			return []string{"use the heaptap that attached, or `heaptap detach PID` with that one and attach anew"}
		}),

		as(ExitTraced, func(e *ptrace.TracedError) []string {
			return []string{fmt.Sprintf("a process can have but one tracer: end %s (process %d), or let it detach",
				e.TracerName, e.Tracer)}
		}),
		as(ExitNotPython, func(*cpython.NotPythonError) []string {
			return []string{"`heaptap ps` lists the Python processes"}
		}),
		as(ExitNotPython, func(*cpython.UnsupportedError) []string {
			return []string{"heaptap tracks CPython 3.6 to 3.15, 64-bit release builds with the GIL"}
		}),
		as(ExitNotPython, func(*cpython.NotReadyError) []string {
			return []string{"a Python that is starting can be tracked in a moment; one that is ending, never"}
		}),
		as(ExitNotPython, func(*ptrace.ABIError) []string { return []string{"only 64-bit programs can be tracked"} }),
		as(ExitNotPython, func(*dso.ClassError) []string { return []string{"only 64-bit programs can be tracked"} }),

		as(ExitNotTracked, func(*retrackedError) []string { return []string{"start the watch again"} }),
		as(ExitUnwritable, unwritable),
		as(ExitUnwritable, func(*folderError) []string { return []string{"`-o DIR` names another folder"} }),
		as(ExitUnreadable, unreadable),
		is(ExitFailure, demo.ErrNoPython,
			"install Python 3.6 or later (apt-get install python3), or name one: --python PATH"),

		as(ExitNotPermitted, func(*profiler.NotHeldError) []string {
			return []string{"its tables can be held from the attach on (`heaptap detach PID`, then attach anew with --hold), " +
				"or by one who has CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE"}
		}),
		as(ExitNotPermitted, func(*profiler.SeccompError) []string { return seccompForbids }),
		as(ExitNotPermitted, func(*call.SeccompError) []string { return seccompForbids }),
		as(ExitNotPermitted, func(*profiler.AddressSpaceError) []string {
			return []string{"nothing in the process was touched; `prlimit --as=unlimited --pid PID` makes room"}
		}),
		{code: ExitNotPermitted, examine: true, match: notPermitted},

		as(ExitNotTracked, func(*agent.BadTablesError) []string {
			return []string{"something in the process has written into heaptap's tables; `heaptap detach PID` removes them"}
		}),
		{code: ExitBadExpression, match: badExpression},
		as(ExitFailure, func(*call.FaultError) []string {
			return []string{"the process goes on as before; `heaptap repair PID` removes what may be left"}
		}),
		as(ExitFailure, func(*call.TimeoutError) []string {
			return []string{"the process goes on as before; try again when it is less busy"}
		}),
		is(ExitFailure, ptrace.ErrDeadline,
			"the process goes on as before; a thread in an uninterruptible wait (state D) cannot stop"),
		is(ExitFailure, call.ErrNoThread,
			"the process goes on as before; `heaptap doctor PID` tells whether it is frozen or waits for a device"),
		is(ExitFailure, call.ErrUnsupported, "attaching is built for amd64 only; snapshots can be read here"),
		as(ExitFailure, func(*inject.ChangedError) []string {
			return []string{"another tool changes Python's allocators at this moment; try again when it is done"}
		}),
		is(ExitFailure, cpython.ErrBusy, "nothing was touched; try again"),
	}
}

var seccompForbids = []string{
	"heaptap asked before it tried: nothing in the process was touched",
	"start the process with a filter that lets mmap, munmap, madvise and rt_sigreturn through",
}

var notRestored = []string{
	"what heaptap has borrowed was not all given back: `heaptap repair PID` tries again",
	"`heaptap status PID` shows what is left there; please report this as a bug",
}

func is(code ExitCode, target error, hints ...string) rule {
	return rule{code: code, match: func(err error) ([]string, bool) { return hints, errors.Is(err, target) }}
}

func as[E error](code ExitCode, hints func(E) []string) rule {
	return rule{code: code, match: func(err error) ([]string, bool) {
		var e E
		if !errors.As(err, &e) {
			return nil, false
		}
		return hints(e), true
	}}
}

// notPermitted matches every refusal by the kernel.
func notPermitted(err error) ([]string, bool) {
	return []string{"`heaptap doctor PID` tells what stands in the way"}, errors.Is(err, fs.ErrPermission)
}

// outputError says that a result could not be written.
type outputError struct {
	Path string
	Err  error
}

func (e *outputError) Error() string { return fmt.Sprintf("write %s: %v", e.Path, cause(e.Err)) }
func (e *outputError) Unwrap() error { return e.Err }

func unwritable(e *outputError) []string {
	const elsewhere = "`-o FILE` writes somewhere else, `-o -` to standard output"
	switch {
	case errors.Is(e.Err, syscall.ENOSPC), errors.Is(e.Err, syscall.EDQUOT):
		return []string{"nothing was left behind; make room, or choose another place: " + elsewhere}
	case errors.Is(e.Err, fs.ErrNotExist):
		return []string{"the folder must exist"}
	case errors.Is(e.Err, syscall.EISDIR):
		return []string{"give the name of a file, not of a folder"}
	default:
		return []string{elsewhere}
	}
}

// inputError says that a file could not be read, or is not what it should be.
type inputError struct {
	Path string
	Err  error
}

func (e *inputError) Error() string { return fmt.Sprintf("%s: %v", e.Path, cause(e.Err)) }
func (e *inputError) Unwrap() error { return e.Err }

func unreadable(e *inputError) []string {
	switch {
	case errors.Is(e.Err, fs.ErrNotExist), errors.Is(e.Err, fs.ErrPermission), errors.Is(e.Err, syscall.EISDIR):
		return []string{"give a file that `heaptap dump` wrote"}
	case errors.Is(e.Err, heap.ErrNotHeap):
		return []string{"it is a profile of something else than memory; give a file that `heaptap dump` wrote"}
	default:
		return []string{"a snapshot is a gzipped pprof profile, as `heaptap dump` writes it; " +
			"this is something else, or cut short"}
	}
}

// cause leaves out what an *fs.PathError says beside its cause, since the path is in the message already.
func cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// findings ends a doctor that found obstacles: the report on stdout has said it all.
type findings struct{}

func (*findings) Error() string { return "" }

// harmed reports whether the process could not be given back as it was, which nothing may hide.
func harmed(err error) bool {
	return errors.As(err, new(*profiler.RestoreError)) || errors.As(err, new(*call.RestoreError))
}

// conclude tells the user what went wrong, with the way round it, and returns the exit code.
func (a *app) conclude(ctx context.Context, err error) ExitCode {
	if err == nil {
		return ExitOK
	}
	if end := (*commandEnd)(nil); errors.As(err, &end) {
		return a.endAs(end)
	}
	var interrupted *interruptedError
	if errors.As(context.Cause(ctx), &interrupted) && errors.Is(err, context.Canceled) && !harmed(err) {
		err = interrupted // whoever pressed Ctrl-C needs no tale of what it cut short
	}
	code, hints := a.diagnose(ctx, err)
	text, source := splitSource(err, mostImportantFirst(err))
	a.talk("error: ", a.stderrStyle().red, text)
	for _, line := range source {
		fmt.Fprintf(a.Stderr, "%*s%s\n", len("error: "), "", line)
	}
	a.pointAt(err)
	for _, h := range hints {
		a.hint(h)
	}
	return code
}

// mostImportantFirst is the error's text, in which a line that tells of harm goes before those of other errors.
func mostImportantFirst(err error) string {
	lines := strings.Split(err.Error(), "\n")
	var restore *profiler.RestoreError
	var giveBack *call.RestoreError
	slices.SortStableFunc(lines, func(x, y string) int {
		rank := func(line string) int {
			if errors.As(err, &restore) && strings.Contains(line, restore.Error()) ||
				errors.As(err, &giveBack) && strings.Contains(line, giveBack.Error()) {
				return 0
			}
			return 1
		}
		return rank(x) - rank(y)
	})
	return strings.Join(lines, "\n")
}

// talk writes labelled lines; printable, since parts of them come from targets and files.
func (a *app) talk(label string, paint func(string) string, text string) {
	width := 0
	if a.Term.Stderr {
		width = a.Term.Width()
	}
	for line := range strings.Lines(strings.TrimSpace(text)) {
		hang(a.Stderr, label, paint, printable(strings.TrimSpace(line)), width)
	}
}

// exitCode is the code of an error.
func exitCode(err error) ExitCode {
	for _, r := range rules() {
		if _, ok := r.match(err); ok {
			return r.code
		}
	}
	return ExitFailure
}

func (a *app) diagnose(ctx context.Context, err error) (ExitCode, []string) {
	for _, r := range rules() {
		hints, ok := r.match(err)
		if !ok {
			continue
		}
		if r.examine && a.pid != 0 {
			if found := a.obstacles(ctx); len(found) > 0 {
				hints = found
			}
		}
		return r.code, hints
	}
	return ExitFailure, nil
}

// obstacles asks the doctor.
func (a *app) obstacles(ctx context.Context) []string {
	checks, err := a.Engine.Examine(ctx, a.pid)
	if err != nil {
		return nil
	}
	var hints []string
	for _, c := range checks {
		if c.Verdict == profiler.Blocks {
			hints = append(hints, strings.TrimSuffix(c.Fact+": "+c.WayRound, ": "))
		}
	}
	return hints
}

// name puts the pid into a hint.
func (a *app) name(hint string) string {
	if a.pid == 0 {
		return hint
	}
	return strings.ReplaceAll(hint, "PID", strconv.Itoa(a.pid))
}
