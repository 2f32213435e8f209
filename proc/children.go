package proc

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Children lists the processes that the process is the parent of, ascending, ended ones too that it has not waited for.
// It is a moment's truth: one that ends meanwhile may hide others, which the next look shows.
func (p *Process) Children() ([]int, error) {
	tids, err := p.Threads()
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, tid := range tids {
		b, err := os.ReadFile(p.Path("task", strconv.Itoa(tid), "children"))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if !listsChildren() {
				return p.childrenAmongAll()
			}
			continue // the thread has ended, and its children are another's
		case err != nil:
			return nil, p.wrap(err)
		}
		for _, field := range strings.Fields(string(b)) {
			if pid, err := strconv.Atoi(field); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	slices.Sort(pids)
	return pids, nil
}

// listsChildren reports whether the kernel has lists of children (CONFIG_PROC_CHILDREN).
func listsChildren() bool {
	_, err := os.Stat("/proc/self/task/" + strconv.Itoa(os.Getpid()) + "/children")
	return err == nil
}

// childrenAmongAll asks every process for its parent.
func (p *Process) childrenAmongAll() ([]int, error) {
	all, err := List()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(pid int) bool {
		st, err := (&Process{Pid: pid}).Stat(pid)
		return err != nil || st.Ppid != p.Pid
	}), nil
}
