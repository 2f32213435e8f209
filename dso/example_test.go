package dso_test

import (
	"fmt"
	"log"
	"os"

	"github.com/heaptap/heaptap/dso"
	"github.com/heaptap/heaptap/proc"
)

// What is at an address of a process, and at which address is what: here, in our own.
func ExampleSymbols() {
	process, err := proc.Open(os.Getpid())
	if err != nil {
		log.Fatal(err)
	}
	defer process.Close()
	memory, err := process.Mem()
	if err != nil {
		log.Fatal(err)
	}
	symbols, err := dso.LoadSymbols(process, memory)
	if err != nil {
		log.Fatal(err)
	}
	clock, err := symbols.Resolve("vdso!__vdso_clock_gettime")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(clock.Kind(), clock.Name, clock.Source)
	found, offset, ok := symbols.At(clock.Addr + 1)
	fmt.Println(found.Module, found.Name == clock.Name || found.Addr == clock.Addr, offset, ok)
	// Output:
	// function __vdso_clock_gettime vdso
	// [vdso] true 1 true
}
