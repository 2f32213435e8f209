// Package tui is the live view of a heap, in the style of top: what is live where, what grows, what is allocated how
// fast. It looks through functions that it is given and knows of no process.
package tui

import (
	"context"
	"io"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/heaptap/heaptap/heap"
)

// Options say what to watch and how.
type Options struct {
	Title    string        // of the screen: the process
	Interval time.Duration // between two looks
	Filter   *heap.Filter  // nil lets everything pass
	Grouping heap.Grouping // to begin with; one of Groupings
	Lines    int           // of plain output for each look

	// Look takes a snapshot. It is called again only after it has returned.
	Look func(context.Context) (*heap.Snapshot, error)
	// Source returns a line of a source file, "" where it is not at hand.
	Source func(file string, line int) string
	// Dump writes a snapshot to a file and returns its name.
	Dump func(context.Context) (string, error)
}

// Groupings are what rows can be shown by.
func Groupings() []heap.Grouping { return groupings[:] }

// Run shows the view in a terminal until the user quits (nil), the context ends (its cause) or a look fails.
func Run(ctx context.Context, in io.Reader, out io.Writer, environ []string, o Options) error {
	program := tea.NewProgram(newModel(ctx, o), tea.WithContext(ctx), tea.WithInput(in), tea.WithOutput(out),
		tea.WithEnvironment(environ), tea.WithoutSignalHandler())
	end, err := program.Run()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if err != nil {
		return err
	}
	return end.(*model).failed
}
