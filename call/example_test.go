package call_test

import (
	"bufio"
	"context"
	"fmt"
	"log"
	"os/exec"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/call"
	"github.com/heaptap/heaptap/dso"
	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
)

// Another tool: have a running process format a string with its own C library.
func Example() {
	pid, end := target()
	defer end()

	p, err := proc.Open(pid)
	if err != nil {
		log.Fatal(err)
	}
	memory, err := p.Mem()
	if err != nil {
		log.Fatal(err)
	}
	symbols, err := dso.LoadSymbols(p, memory)
	if err != nil {
		log.Fatal(err)
	}
	snprintf, err := symbols.Lookup("snprintf")
	if err != nil {
		log.Fatal(err)
	}
	plan, err := call.Prepare(p, call.Options{})
	if err != nil {
		log.Fatal(err)
	}
	report, err := plan.Borrow(context.Background(), func(s *call.Session) error {
		buf, err := s.Map(4096, unix.PROT_READ|unix.PROT_WRITE)
		if err != nil {
			return err
		}
		if err := memory.WriteAt([]byte("%d + %d = %d\x00"), buf); err != nil {
			return err
		}
		text := buf + 100
		r, err := s.Call(snprintf[0].Addr, call.Args{Int: [6]uint64{uint64(text), 100, uint64(buf), 1, 2, 3}})
		if err != nil {
			return err
		}
		out, err := mem.Bytes(memory, text, int(r.RAX))
		fmt.Printf("%s\n", out)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("threads held:", report.Threads)
	// Output:
	// 1 + 2 = 3
	// threads held: 1
}

// target is a process that has nothing to do with us: a cat that waits for more to read.
func target() (pid int, end func()) {
	cat := exec.Command("cat")
	in, err := cat.StdinPipe()
	if err != nil {
		log.Fatal(err)
	}
	out, err := cat.StdoutPipe()
	if err != nil {
		log.Fatal(err)
	}
	if err := cat.Start(); err != nil {
		log.Fatal(err)
	}
	fmt.Fprintln(in, "is it running?")
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		log.Fatal(err)
	}
	return cat.Process.Pid, func() {
		in.Close()
		if err := cat.Wait(); err != nil {
			log.Fatal(err)
		}
	}
}
