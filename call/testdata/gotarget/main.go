// A Go program with busy goroutines, whose stacks are small and move. It answers every line with "ok".
package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
)

func deep(n int) int {
	var pad [64]int
	for i := range pad {
		pad[i] = n + i
	}
	if n == 0 {
		return pad[3]
	}
	return deep(n-1) + pad[n%64]
}

func main() {
	want := deep(50)
	for range 8 {
		go func() {
			for {
				if got := deep(50); got != want {
					fmt.Fprintln(os.Stderr, "wrong:", got)
					os.Exit(4)
				}
				_ = make([]byte, 1000)
				runtime.Gosched()
			}
		}()
	}
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		fmt.Println("ok")
	}
}
