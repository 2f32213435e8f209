package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/heaptap/heaptap/inferior"
	"github.com/heaptap/heaptap/mem"
)

// Inferior is what the commands for any process need of package inferior.
type Inferior interface {
	Evaluate(context.Context, []string, inferior.Options) (*inferior.Evaluation, error)
	Explain(context.Context, []string, inferior.Options) (*inferior.Explanation, error)
	Threads() ([]inferior.Thread, error)
	FindThread(string) (inferior.Thread, error)
	Registers(ctx context.Context, tid int) (*inferior.Registers, error)
	SetRegister(ctx context.Context, tid int, name string, value uint64) (before, after inferior.Register, err error)
	Value(ctx context.Context, expression string, tid int) (uint64, error)
	Locate(ctx context.Context, place string, tid int) (inferior.Location, error)
	Describe(mem.Addr) inferior.Location
	Memory() mem.Memory
	Poke(context.Context, mem.Addr, []byte, inferior.PokeOptions) (*inferior.Poke, error)
	Search(pattern string) ([]inferior.Symbol, error)
	Stacks(context.Context, inferior.StackOptions) (*inferior.Stacks, error)
	Close() error
}

// openLive is package inferior as it is.
func openLive(pid int) (Inferior, error) { return inferior.Open(pid) }

// act runs a command for any process: it opens the process that the first argument names.
func (a *app) act(fn func(c *cobra.Command, p Inferior, args []string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		pid, err := a.target(c, args[0])
		if err != nil {
			return err
		}
		p, err := a.Open(pid)
		if err != nil {
			return err
		}
		defer p.Close()
		return fn(c, p, args[1:])
	}
}

// between demands the named arguments and allows those in brackets.
func between(names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		for i, name := range names {
			if i >= len(args) && !strings.HasPrefix(name, "[") {
				return wrongUse(c, "%s is missing", name)
			}
		}
		if len(args) > len(names) {
			return wrongUse(c, "too many arguments: %q", args[len(names):])
		}
		return nil
	}
}

// atLeast demands the named arguments; the last may be given more than once.
func atLeast(names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return wrongUse(c, "%s is missing", names[len(args)])
		}
		return nil
	}
}

// threadOf is the thread that --thread names; the process's first where it names none.
func (a *app) threadOf(p Inferior, name string) (inferior.Thread, error) {
	if name == "" {
		name = fmt.Sprint(a.pid)
	}
	return p.FindThread(name)
}

// placeText is "0x7f12… libc.so.6!malloc+16".
func placeText(l inferior.Location) string {
	s := l.Addr.String()
	if name := l.String(); name != "" {
		s += " " + printable(name)
	}
	return s
}
