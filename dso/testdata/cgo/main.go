// Command cgo is a Go program with C functions: it says where they are, and waits.
package main

/*
#include <stdio.h>

static __attribute__((noinline, used)) int hidden_in_go(int x) { return x * 3; }
__attribute__((noinline)) int c_function(int x) { return hidden_in_go(x) + 1; }
static void say(void)
{
    printf("own - %p c_function\nown - %p hidden_in_go\nready\n", (void *)c_function, (void *)hidden_in_go);
    fflush(stdout);
}
*/
import "C"

import (
	"fmt"
	"reflect"
)

//go:noinline
func pureGo(x int) int { return x + 2 }

func main() {
	fmt.Printf("goes - %#x main.pureGo\n", reflect.ValueOf(pureGo).Pointer())
	C.say()
	var line string
	fmt.Scanln(&line)
	fmt.Println(pureGo(len(line)), C.c_function(1))
}
