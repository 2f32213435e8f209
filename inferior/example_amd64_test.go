package inferior_test

import (
	"context"
	"fmt"
	"os/exec"

	"github.com/heaptap/heaptap/inferior"
)

// Call functions of a running program, and see what it is doing.
func Example() {
	c := exec.Command("cat")
	in, _ := c.StdinPipe()
	out, _ := c.StdoutPipe()
	if err := c.Start(); err != nil {
		fmt.Println(err)
		return
	}
	defer c.Wait()
	defer in.Close()
	fmt.Fprintln(in, "started") // and what it answers tells that its libraries are there
	fmt.Fscanln(out, new(string))

	p, err := inferior.Open(c.Process.Pid)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer p.Close()
	ctx := context.Background()
	e, err := p.Evaluate(ctx, []string{`$n = strlen("hello")`, "$n * 2", `open("/no/such/file", 0)`}, inferior.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, o := range e.Outcomes {
		fmt.Printf("$%d = %s, errno %d\n", o.Number, o.Text, o.Errno)
	}
	s, err := p.Stacks(ctx, inferior.StackOptions{})
	fmt.Println(len(s.Threads), "thread,", err)
	// Output:
	// $1 = 5, errno 0
	// $2 = 10, errno 0
	// $3 = -1, errno 2
	// 1 thread, <nil>
}
