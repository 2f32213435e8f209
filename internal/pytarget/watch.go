package pytarget

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/heaptap/heaptap/proc"
)

// until waits for what no pipe can tell, a state that only the kernel knows, by looking at it again and again.
func until(tg *Target, what string, seen func() (bool, error)) error {
	return within(tg, patience, what, seen)
}

// within is until with another limit.
func within(tg *Target, patience time.Duration, what string, seen func() (bool, error)) error {
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for {
		if ok, err := seen(); ok || err != nil {
			return err
		}
		select {
		case <-look.C:
		case <-tg.ended:
			return fmt.Errorf("the target ended before it %s", what)
		case <-limit.C:
			return fmt.Errorf("it took more than %v and was not seen that the target %s", patience, what)
		}
	}
}

// taskPath is a file of one thread below /proc.
func taskPath(pid, tid int, name string) string {
	return fmt.Sprintf("/proc/%d/task/%d/%s", pid, tid, name)
}

// taskState tells whether a thread is in the state that /proc/PID/stat calls by this letter.
func taskState(pid, tid int, state byte) (bool, error) {
	p, err := proc.Open(pid)
	if err != nil {
		return false, err
	}
	defer p.Close()
	stat, err := p.Stat(tid)
	return stat.State == state, err
}

// currentSyscall is the number of the system call in which a thread waits, -1 while it does not wait in one.
func currentSyscall(pid, tid int) (int, error) {
	line, err := os.ReadFile(taskPath(pid, tid, "syscall"))
	if err != nil {
		return -1, err
	}
	first, _, _ := strings.Cut(string(line), " ")
	number, err := strconv.Atoi(first)
	if err != nil {
		return -1, nil // "running"
	}
	return number, nil
}

// spends gives a function that tells when the process has used so much processor time from now on.
func spends(pid int, amount time.Duration) func() (bool, error) {
	first := time.Duration(-1)
	return func() (bool, error) {
		used, err := processorTime(pid)
		if first < 0 {
			first = used
		}
		return used >= first+amount, err
	}
}

// processorTime is what the process has used in user mode.
func processorTime(pid int) (time.Duration, error) {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(line), ") ") // the name is in parentheses
	fields := strings.Fields(rest)
	const utime, ticksPerSecond = 14 - 3, 100 // proc_pid_stat(5) counts from 1, the third comes first here; USER_HZ
	if len(fields) <= utime {
		return 0, fmt.Errorf("/proc/%d/stat: %q", pid, line)
	}
	ticks, err := strconv.ParseInt(fields[utime], 10, 64)
	return time.Duration(ticks) * time.Second / ticksPerSecond, err
}

// describe tells what the threads of a process are doing, for a failure's report.
func describe(pid int) string {
	var b strings.Builder
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return err.Error() + "\n"
	}
	for i, task := range tasks {
		if i == 8 {
			fmt.Fprintf(&b, "and %d more threads\n", len(tasks)-i)
			break
		}
		fields, err := statusFields(fmt.Sprintf("/proc/%d/task/%s/status", pid, task.Name()))
		if err != nil {
			fmt.Fprintf(&b, "thread %s: %v\n", task.Name(), err)
			continue
		}
		fmt.Fprintf(&b, "thread %s:", task.Name())
		for _, name := range []string{"Name", "State", "TracerPid", "SigPnd", "ShdPnd", "SigBlk", "SigCgt"} {
			fmt.Fprintf(&b, " %s %s", name, fields[name])
		}
		for _, name := range []string{"syscall", "wchan", "stack"} {
			if data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/%s", pid, task.Name(), name)); err == nil {
				fmt.Fprintf(&b, "\n\t%s: %s", name, strings.ReplaceAll(strings.TrimSpace(string(data)), "\n", "\n\t"))
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}
