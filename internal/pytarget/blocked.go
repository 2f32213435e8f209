package pytarget

import (
	_ "embed"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"
)

//go:embed python/blocking.py
var blockingSource string

// blockingCalls are the names of the cases in python/blocking.py, in order.
func blockingCalls() []string {
	var names []string
	lines := strings.Split(blockingSource, "\n")
	for i, line := range lines {
		if line == "@case" {
			name, _, _ := strings.Cut(strings.TrimPrefix(lines[i+1], "def "), "(")
			names = append(names, name)
		}
	}
	return names
}

// onlyAMD64 are the system calls that newer architectures do not have.
var onlyAMD64 = []string{"poll", "poll_timed", "select_timed", "epoll_wait_timed", "pause"}

// rearming are the calls with a limit that the kernel starts anew with the whole limit when they are interrupted and
// restarted (-ERESTARTNOHAND in place of -EINTR): for them only a shortened wait is a fault.
var rearming = []string{"recv_timed", "epoll_wait_timed", "sigtimedwait", "semtimedop", "io_getevents"}

// A call with a limit may end this much before its time (clocks tick) and, on a machine with more to do than it can,
// this much after it. The limit is a second: one that was started anew in its second half is seen.
const (
	early = 5 * time.Millisecond
	late  = 500 * time.Millisecond
)

// blockedIn is the situation of waiting in one call.
func blockedIn(call string) Situation {
	return Situation{
		Name:    "blocked_" + call,
		About:   "waits in " + call,
		Options: Options{PrivateIPC: true},
		program: blockingSource,
		applies: func(Interpreter) error {
			if runtime.GOARCH != "amd64" && slices.Contains(onlyAMD64, call) {
				return fmt.Errorf("%s has no such system call", runtime.GOARCH)
			}
			return nil
		},
		enter: func(tg *Target) error { return enterBlocked(tg, call) },
		leave: func(tg *Target) error { return leaveBlocked(tg, call) },
	}
}

// enterBlocked has the target make the call and waits until a thread is in it.
func enterBlocked(tg *Target, call string) error {
	var entered struct {
		Numbers []int `json:"numbers"` // the system calls in which the call may wait
		Tid     int   `json:"tid"`
	}
	if _, err := tg.Try(fmt.Sprintf("set_up(%q)", call)); err != nil {
		return err
	}
	if err := tg.eval("enter()", &entered); err != nil {
		return err
	}
	return until(tg, fmt.Sprintf("waits in one of the system calls %v", entered.Numbers), func() (bool, error) {
		number, err := currentSyscall(tg.Pid(), entered.Tid)
		return slices.Contains(entered.Numbers, number), err
	})
}

// leaveBlocked ends the wait and judges how the calls ended.
func leaveBlocked(tg *Target, call string) error {
	if _, err := tg.control.Write([]byte("r")); err != nil {
		return fmt.Errorf("end the wait: %w", err)
	}
	var report blockedReport
	if err := tg.eval("report()", &report); err != nil {
		return err
	}
	tg.t.Logf("%s: %+v", call, report)
	return report.judge(!slices.Contains(rearming, call))
}

// blockedReport is how a blocked target says that its calls ended.
type blockedReport struct {
	Unexpected []string `json:"unexpected"` // results
	Rounds     int      `json:"rounds"`
	Limit      float64  `json:"limit"`    // seconds; 0: the call has no limit
	Shortest   float64  `json:"shortest"` // seconds
	Longest    float64  `json:"longest"`  // seconds
}

// judge says what is wrong with how the calls ended; exact: they keep to their limit when they are restarted.
func (r blockedReport) judge(exact bool) error {
	switch {
	case len(r.Unexpected) > 0:
		return fmt.Errorf("the call ended otherwise than it should: %s", strings.Join(r.Unexpected, ", "))
	case r.Limit == 0:
		return nil
	case r.Rounds == 0:
		return fmt.Errorf("the call was never made")
	case r.Shortest < r.Limit-early.Seconds():
		return fmt.Errorf("a wait of %.3f s was shortened to %.3f s", r.Limit, r.Shortest)
	case exact && r.Longest > r.Limit+late.Seconds():
		return fmt.Errorf("a wait of %.3f s was stretched to %.3f s", r.Limit, r.Longest)
	}
	return nil
}
