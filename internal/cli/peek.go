package cli

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/heaptap/heaptap/inferior"
	"github.com/heaptap/heaptap/mem"
)

// peekForms are the ways to show memory.
var peekForms = []string{"hex", "words", "text", "code", "raw"}

func (a *app) peekCommand() *cobra.Command {
	var as, thread string
	var asJSON bool
	c := &cobra.Command{
		Use:   "peek PID ADDR|SYMBOL [LEN]",
		Short: "Show memory",
		Long: "Shows the memory of a running process, which goes on running. The place is an\n" +
			"address, a symbol (malloc, libc.so.6!environ) or a C expression that calls\n" +
			"nothing ('$rsp+8'). LEN is bytes; left out, it is the symbol's size, or 64.",
		Example: example(
			"heaptap peek 4711 environ", "a variable, by name",
			"heaptap peek 4711 '$rsp' 256 --as words", "the stack, explained",
			"heaptap peek 4711 malloc 48 --as code", "disassembled",
			"heaptap peek 4711 0x7ffd1234 4K --as raw > f", "the bytes as they are"),
		GroupID:           groupAct,
		Args:              between("PID", "ADDR or SYMBOL", "[LEN]"),
		ValidArgsFunction: a.completeSymbol,
		RunE: a.act(func(c *cobra.Command, p Inferior, args []string) error {
			form, err := oneOf(c, "as", as, peekForms)
			if err != nil {
				return err
			}
			if asJSON && form == "raw" {
				return wrongUse(c, "--json and --as raw both want standard output")
			}
			t, err := a.threadOf(p, thread)
			if err != nil {
				return err
			}
			at, err := p.Locate(c.Context(), args[0], t.Tid)
			if err != nil {
				return err
			}
			n, err := peekLength(c, at, args[1:])
			if err != nil {
				return err
			}
			if asJSON {
				return a.peekJSON(p, at, n)
			}
			return a.peek(p, at, n, form)
		}),
	}
	c.Flags().StringVar(&as, "as", "hex", "the `FORM`: "+strings.Join(peekForms, ", "))
	c.Flags().StringVar(&thread, "thread", "", "whose registers: a `TID` or name (the first thread's)")
	jsonFlag(c, &asJSON)
	a.fixedCompletion(c, "as", peekForms...)
	return c
}

const (
	defaultPeek = 64
	maxPeek     = 1 << 30
)

// peekLength is how many bytes are wanted.
func peekLength(c *cobra.Command, at inferior.Location, args []string) (int, error) {
	if len(args) == 0 {
		if at.Size > 0 {
			return int(min(at.Size, maxPeek)), nil
		}
		return defaultPeek, nil
	}
	if n, err := strconv.ParseUint(args[0], 0, 64); err == nil && n > 0 && n <= maxPeek {
		return int(n), nil
	}
	var size sizeFlag
	if err := size.Set(args[0]); err != nil || size > maxPeek {
		return 0, wrongUse(c, "%q is not a length in bytes, at most 1G", args[0])
	}
	return int(size), nil
}

// oneOf checks a flag that takes one of some words.
func oneOf(c *cobra.Command, flag, value string, words []string) (string, error) {
	for _, w := range words {
		if value == w {
			return w, nil
		}
	}
	return "", wrongUse(c, "--%s %q: it is one of %s", flag, value, strings.Join(words, ", "))
}

// peekChunk is how much is read at once.
const peekChunk = 1 << 20

// peek shows memory. What lies before a part that cannot be read is shown.
func (a *app) peek(p Inferior, at inferior.Location, n int, form string) error {
	if form == "code" {
		lines, err := inferior.Disassemble(p.Memory(), at.Addr, n, p.Describe)
		for _, in := range lines {
			fmt.Fprintf(a.Stdout, "%s  %s\n", a.stdoutStyle().dim(in.Addr.String()), instructionText(in))
		}
		return err
	}
	_, err := a.output("-", func(w io.Writer) error {
		for done := 0; done < n; {
			size, from := min(n-done, peekChunk), at.Addr+mem.Addr(done)
			b, err := readUpTo(p.Memory(), from, size)
			a.writeMemory(w, p, b, from, form)
			if err != nil {
				return err
			}
			done += size
		}
		return nil
	})
	return err
}

// readUpTo reads as much of n bytes as can be read. The error says what stopped it.
func readUpTo(r mem.Reader, at mem.Addr, n int) ([]byte, error) {
	b, err := mem.Bytes(r, at, n)
	if err == nil {
		return b, nil
	}
	var f *mem.Fault
	if !errors.As(err, &f) || f.Addr <= at || f.Addr >= at+mem.Addr(n) {
		return nil, err
	}
	b, again := mem.Bytes(r, at, int(f.Addr-at))
	return b, errors.Join(err, again)
}

func (a *app) writeMemory(w io.Writer, p Inferior, b []byte, at mem.Addr, form string) {
	st := a.stdoutStyle()
	switch form {
	case "raw":
		w.Write(b)
	case "text":
		fmt.Fprintln(w, strconv.QuoteToASCII(string(b)))
	case "words":
		for ; len(b) >= 8; b, at = b[8:], at+8 {
			v := mem.Addr(binary.LittleEndian.Uint64(b))
			line := fmt.Sprintf("%s  0x%016x", st.dim(at.String()), uint64(v))
			if name := p.Describe(v).String(); name != "" {
				line += "  " + printable(name)
			}
			fmt.Fprintln(w, line)
		}
		if len(b) > 0 {
			fmt.Fprintf(w, "%s  % x\n", st.dim(at.String()), b)
		}
	default:
		for ; len(b) > 0; at += 16 {
			line := b[:min(len(b), 16)]
			b = b[len(line):]
			fmt.Fprintf(w, "%s  %-49s  |%s|\n", st.dim(at.String()), hexText(line), asciiText(line))
		}
	}
}

// hexText is sixteen bytes in two groups.
func hexText(b []byte) string {
	if len(b) <= 8 {
		return fmt.Sprintf("% x", b)
	}
	return fmt.Sprintf("% x  % x", b[:8], b[8:])
}

func asciiText(b []byte) string {
	out := make([]byte, len(b))
	for i, c := range b {
		out[i] = '.'
		if c >= ' ' && c <= '~' {
			out[i] = c
		}
	}
	return string(out)
}

// instructionText is the bytes and the text of an instruction.
func instructionText(in inferior.Instruction) string {
	s := fmt.Sprintf("%-31s  %s", fmt.Sprintf("% x", in.Bytes), printable(in.Text))
	if in.Note != "" {
		s += "  # " + in.Note
	}
	return s
}

type peekValue struct {
	Pid    int    `json:"pid"`
	Addr   string `json:"addr"`
	Symbol string `json:"symbol"`
	Bytes  string `json:"bytes"`
}

func (a *app) peekJSON(p Inferior, at inferior.Location, n int) error {
	b, err := mem.Bytes(p.Memory(), at.Addr, n)
	if err != nil {
		return err
	}
	return a.writeJSON(peekValue{a.pid, at.Addr.String(), at.String(), hex.EncodeToString(b)})
}
