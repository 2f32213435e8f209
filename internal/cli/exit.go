package cli

// ExitCode is what heaptap tells the shell. The numbers are part of the interface: they never change their meaning.
type ExitCode int

// Exit codes.
const (
	ExitOK ExitCode = iota
	ExitFailure
	ExitUsage
	ExitNoProcess
	ExitNotPython
	ExitNotPermitted
	ExitTraced
	ExitNotTracked
	ExitBusy
	ExitUnreadable
	ExitUnwritable
	ExitFindings
	ExitNotRestored
	ExitBadExpression
	ExitNotSafe
	ExitCallFailed
	ExitNoMatch
	ExitNotExecutable ExitCode = 126
	ExitNoCommand     ExitCode = 127
	ExitInterrupted   ExitCode = 130
)

// exitCodes is the table behind `heaptap help exit-codes`.
var exitCodes = []struct {
	code    ExitCode
	meaning string
}{
	{ExitOK, "done"},
	{ExitFailure, "failed for a reason that has no code of its own"},
	{ExitUsage, "the command line is wrong"},
	{ExitNoProcess, "no such process, or it ended or was replaced meanwhile"},
	{ExitNotPython, "the process is not a Python that heaptap knows"},
	{ExitNotPermitted, "the kernel does not permit it"},
	{ExitTraced, "another tracer holds the process"},
	{ExitNotTracked, "the process is not tracked, or by another version of heaptap"},
	{ExitBusy, "another heaptap is at work on the process"},
	{ExitUnreadable, "a file cannot be read, or is not a snapshot"},
	{ExitUnwritable, "the output cannot be written; nothing was left under its name"},
	{ExitFindings, "doctor found something that would stop an attach"},
	{ExitNotRestored, "the process could not be restored fully: look at the message"},
	{ExitBadExpression, "an expression is wrong, or names what is not there"},
	{ExitNotSafe, "no safe point for the call, or code is in use: nothing was done"},
	{ExitCallFailed, "the called function crashed, hung or left; the process goes on"},
	{ExitNoMatch, "the filter lets nothing pass"},
	{ExitNotExecutable, "run: the command cannot be executed"},
	{ExitNoCommand, "run: there is no such command; else, run ends as the command does"},
	{ExitInterrupted, "stopped by Ctrl-C or another signal"},
}
