// Command heaptap finds out where a running Python process keeps its memory.
package main

import (
	"os"

	"github.com/heaptap/heaptap/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:], cli.System())) }
