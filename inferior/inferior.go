// Package inferior acts on a running process as a debugger does, without being one: it evaluates C expressions that
// call any of its functions, reads and changes registers and memory, names addresses and walks stacks.
//
// It joins what the engine's packages know apart: proc and ptrace the process and its threads, dso its symbols, unwind
// its stacks, call the borrowed thread, cexpr the language. What it adds is judgement: whether a thread is at a point
// where a function may be called, which of several symbols is meant, and what a type is where no DWARF says so.
//
// A Process may be used from several goroutines; what stops threads happens one after another.
package inferior

import (
	"fmt"
	"sync"

	"github.com/heaptap/heaptap/dso"
	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
)

// Process is one life of one process on which is acted.
type Process struct {
	process *proc.Process
	memory  *proc.Mem
	stops   sync.Mutex // held while threads are stopped
	table   symbolTable
	source  *lines
}

// Open pins the process that has this pid now, and opens its memory.
func Open(pid int) (*Process, error) {
	p, err := proc.Open(pid)
	if err != nil {
		return nil, err
	}
	m, err := p.Mem()
	if err != nil {
		p.Close()
		return nil, err
	}
	return &Process{process: p, memory: m, source: &lines{modules: make(map[*dso.Module]*moduleLines)}}, nil
}

// Close gives back what the Process holds open. The process itself is not touched.
func (p *Process) Close() error { return p.process.Close() }

// Pid is the process.
func (p *Process) Pid() int { return p.process.Pid }

// Memory is the process's memory as it is, page protections set aside.
func (p *Process) Memory() mem.Memory { return p.memory }

// mapping finds the mapping that holds an address.
func mapping(maps []proc.Mapping, a mem.Addr) (proc.Mapping, bool) {
	for _, m := range maps {
		if m.Contains(a) {
			return m, true
		}
	}
	return proc.Mapping{}, false
}

// wrap names the process in an error.
func (p *Process) wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s process %d: %w", op, p.process.Pid, err)
}
