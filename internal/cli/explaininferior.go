package cli

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/heaptap/heaptap/call"
	"github.com/heaptap/heaptap/cexpr"
	"github.com/heaptap/heaptap/dso"
	"github.com/heaptap/heaptap/inferior"
	"github.com/heaptap/heaptap/mem"
)

// The way round for what package inferior's commands run into, as rules of the table in explain.go.

// calleeFailed matches a called function that did not return as it should.
func calleeFailed(err error) ([]string, bool) {
	var callee *inferior.CalleeError
	if !errors.As(err, &callee) {
		return nil, false
	}
	var hints []string
	if where := whereabouts(callee.Frames); where != "" {
		hints = append(hints, "it was in "+where)
	}
	switch {
	case errors.As(err, new(*call.LongjmpError)):
		hints = append(hints, "the thread goes on from where the function jumped to: that cannot be undone")
	case errors.As(err, new(*call.TimeoutError)):
		hints = append(hints, "the thread goes on as before; what the function has written or locked stays so",
			"`--timeout 1m` waits longer; a function that waits for another thread's lock needs --thread of that one")
	case errors.As(err, new(*call.ExitedError)):
		hints = append(hints, "the process goes on; what the function did before, such as exit handlers, stays done")
	default:
		hints = append(hints, "the thread goes on as before; what the function has written or locked stays so")
	}
	return hints, true
}

// whereabouts names the innermost functions of a stack.
func whereabouts(frames []inferior.Frame) string {
	const shown = 4
	var names []string
	for i := range frames {
		if len(names) == shown {
			break
		}
		names = append(names, nativeFrameText(&frames[i]))
	}
	return strings.Join(names, ", called from ")
}

// notSafe matches refusals to act where a thread stands.
func notSafe(err error) ([]string, bool) {
	var gil *inferior.GILError
	var unsafe *inferior.UnsafeError
	var busy *call.BusyError
	var inUse *inferior.InUseError
	switch {
	case errors.As(err, &gil):
		return []string{
			fmt.Sprintf("take the GIL first: `heaptap call PID '$g = PyGILState_Ensure()' '%s(...)' 'PyGILState_Release($g)'`",
				gil.Function),
			"--force calls it all the same, and crashes the process if that was wrong",
		}, true
	case errors.As(err, &unsafe):
		return []string{"another thread may do (--thread), or a later instant; --force calls it all the same"}, true
	case errors.As(err, &busy):
		return []string{
			"nothing was called; `--timeout 1m` waits longer, `--when entry:FUNCTION` for an instant that you know",
			"`--when now` calls it where the thread stands, which may hang or damage the process",
		}, true
	case errors.As(err, &inUse):
		return []string{"nothing was written; try again when it has left"}, true
	}
	return nil, false
}

// badExpression matches what a user has written and is not so.
func badExpression(err error) ([]string, bool) {
	var notFound *cexpr.NotFoundError
	var noSymbol *dso.NotFoundError
	var noThread *inferior.NoThreadError
	var several *inferior.AmbiguousThreadError
	var noMatch *noMatchError
	var fault *mem.Fault
	switch {
	case errors.As(err, &notFound):
		return []string{searchHint(notFound.Name)}, true
	case errors.As(err, &noSymbol):
		return []string{searchHint(noSymbol.Name)}, true
	case errors.As(err, &noThread):
		return []string{"its threads: " + threadsText(noThread.Have)}, true
	case errors.As(err, &several):
		return []string{"give the id of one: " + threadsText(several.Have)}, true
	case errors.As(err, &noMatch):
		return []string{searchHint(strings.Trim(noMatch.pattern, "*/"))}, true
	case errors.As(err, new(*dso.AmbiguousError)), errors.As(err, new(*cexpr.AmbiguousError)),
		errors.As(err, new(*inferior.ReadOnlyRegisterError)):
		return nil, true
	case errors.Is(err, inferior.ErrNoRegister):
		return []string{"`heaptap regs PID --all` lists them"}, true
	case errors.As(err, new(*inferior.RangeError)), errors.Is(err, inferior.ErrCalls):
		return nil, true
	case errors.As(err, new(*inferior.ContentError)):
		return []string{"`heaptap peek PID ADDR` shows what stands there"}, true
	case errors.As(err, new(*inferior.SharedError)):
		return []string{"writing it would change the file for everybody; nothing was written"}, true
	case errors.As(err, new(*inferior.UnmappedError)):
		return []string{"/proc/PID/maps lists what is mapped"}, true
	case errors.As(err, new(*cexpr.SyntaxError)):
		return []string{"`heaptap help call` shows what can be written"}, true
	case errors.As(err, new(*cexpr.EvalError)):
		return nil, true
	case errors.As(err, &fault):
		return []string{"/proc/PID/maps lists what is mapped"}, true
	}
	return nil, false
}

// splitSource parts an error's text from the expression in it and the caret below that, which have to stay as they are.
func splitSource(err error, text string) (message string, source []string) {
	var syntax *cexpr.SyntaxError
	var eval *cexpr.EvalError
	var whole string
	switch {
	case errors.As(err, &syntax):
		whole = syntax.Error()
	case errors.As(err, &eval):
		whole = eval.Error()
	}
	if i := strings.LastIndexByte(whole, '\n'); i > 0 {
		i = strings.LastIndexByte(whole[:i], '\n')
		if lines := whole[i+1:]; i > 0 && strings.HasSuffix(text, lines) {
			for line := range strings.Lines(lines) {
				source = append(source, printable(strings.TrimRight(line, "\n")))
			}
			return strings.TrimSuffix(text, lines), source
		}
	}
	return text, nil
}

// searchHint tells how to look for a name that is not there.
func searchHint(name string) string {
	if _, after, ok := strings.Cut(name, "!"); ok {
		name = after
	}
	return fmt.Sprintf("`heaptap symbols PID '*%s*'` lists what has it in its name", printable(name))
}

func threadsText(threads []inferior.Thread) string {
	const most = 8
	var out []string
	for i, t := range threads {
		if i == most {
			out = append(out, fmt.Sprintf("and %d more", len(threads)-most))
			break
		}
		out = append(out, strconv.Itoa(t.Tid)+" ("+printable(t.Name)+")")
	}
	return strings.Join(out, ", ")
}
