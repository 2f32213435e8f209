package cli

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/heaptap/heaptap/inferior"
)

func (a *app) pokeCommand() *cobra.Command {
	var expect, thread string
	var asJSON bool
	c := &cobra.Command{
		Use:   "poke PID ADDR|SYMBOL BYTES",
		Short: "Write memory, code and read-only pages too",
		Long: "Writes the memory of a running process, whatever the page's protection, and\n" +
			"reads it back. What fits one aligned word is one store; for more, the process\n" +
			"stands still meanwhile, so that none of its threads sees a half of it. Code in\n" +
			"which a thread stands is not changed.\n\n" +
			"BYTES is hexadecimal (90 90, 0x9090: in this order), text in double quotes, or a\n" +
			"number with a type: u8, u16, u32, u64, i8 to i64, f32 or f64, as in u32:65536.",
		Example: example(
			"heaptap poke 4711 verbose u32:1", "set an int variable",
			"heaptap poke 4711 0x55d0c1a4 '\"new text\\0\"'", "text",
			"heaptap poke 4711 check 31c0c3 --expect 554889", "only if it is so"),
		GroupID:           groupAct,
		Args:              between("PID", "ADDR or SYMBOL", "BYTES"),
		ValidArgsFunction: a.completeSymbol,
		RunE: a.act(func(c *cobra.Command, p Inferior, args []string) error {
			b, err := parseBytes(args[1])
			if err != nil {
				return wrongUse(c, "%w", err)
			}
			var o inferior.PokeOptions
			if expect != "" {
				if o.Expect, err = parseBytes(expect); err != nil {
					return wrongUse(c, "--expect: %w", err)
				}
				if len(o.Expect) > len(b) {
					return wrongUse(c, "--expect has %d bytes, and %d are written", len(o.Expect), len(b))
				}
			}
			t, err := a.threadOf(p, thread)
			if err != nil {
				return err
			}
			at, err := p.Locate(c.Context(), args[0], t.Tid)
			if err != nil {
				return err
			}
			k, err := p.Poke(c.Context(), at.Addr, b, o)
			if err != nil {
				return err
			}
			if asJSON {
				return a.writeJSON(pokeValue{a.pid, at.Addr.String(), at.String(), hex.EncodeToString(k.Old),
					hex.EncodeToString(k.New), k.Code, k.Single, k.Threads, int64(k.Pause)})
			}
			a.showPoke(at, k)
			return nil
		}),
	}
	c.Flags().StringVar(&expect, "expect", "", "write only if it begins with these `BYTES` now")
	c.Flags().StringVar(&thread, "thread", "", "whose registers: a `TID` or name (the first thread's)")
	jsonFlag(c, &asJSON)
	return c
}

type pokeValue struct {
	Pid     int    `json:"pid"`
	Addr    string `json:"addr"`
	Symbol  string `json:"symbol"`
	Old     string `json:"old"`
	New     string `json:"new"`
	Code    bool   `json:"code"`
	Single  bool   `json:"single"`
	Threads int    `json:"threads"`
	PauseNS int64  `json:"pause_ns"`
}

func (a *app) showPoke(at inferior.Location, k *inferior.Poke) {
	const shown = 32
	text := func(b []byte) string {
		if len(b) > shown {
			return fmt.Sprintf("% x … %d bytes", b[:shown], len(b))
		}
		return fmt.Sprintf("% x", b)
	}
	fmt.Fprintf(a.Stdout, "wrote %s at %s\n", plural(uint64(len(k.New)), "byte", "bytes"), placeText(at))
	g := grid{align: []align{left, left}}
	g.add("  before", text(k.Old))
	g.add("  now", text(k.New))
	how := "one store; nothing was stopped"
	if !k.Single {
		how = fmt.Sprintf("with %s held for %s", plural(uint64(k.Threads), "thread", "threads"), durationText(k.Pause))
	}
	if k.Code {
		how = "code: " + how
	}
	g.add("  how", how)
	g.write(a.Stdout, 0, nil)
}

// parseBytes reads bytes as the help of poke describes them.
func parseBytes(text string) ([]byte, error) {
	fail := func(why string) ([]byte, error) {
		return nil, fmt.Errorf("%q is no bytes: %s", text, why)
	}
	if strings.HasPrefix(text, `"`) {
		s, err := unquote(text)
		if err != nil {
			return fail("a text begins and ends with \", with C's escapes in between")
		}
		return s, nil
	}
	if kind, number, ok := strings.Cut(text, ":"); ok {
		b, err := typedNumber(kind, number)
		if err != nil {
			return fail(err.Error())
		}
		return b, nil
	}
	digits := strings.NewReplacer(" ", "", "0x", "", "\\x", "", ",", "").Replace(text)
	b, err := hex.DecodeString(digits)
	switch {
	case err != nil && len(digits)%2 == 1:
		return fail("an odd number of hexadecimal digits")
	case err != nil:
		return fail("hexadecimal digits, \"text\", or a number such as u32:65536")
	case len(b) == 0:
		return fail("it is empty")
	}
	return b, nil
}

// typedNumber is a number as a little-endian machine stores it.
func typedNumber(kind, number string) ([]byte, error) {
	if len(kind) < 2 {
		return nil, fmt.Errorf("there is no type %q", kind)
	}
	bits, err := strconv.Atoi(kind[1:])
	if err != nil || bits != 8 && bits != 16 && bits != 32 && bits != 64 || kind[0] == 'f' && bits < 32 {
		return nil, fmt.Errorf("there is no type %q", kind)
	}
	var v uint64
	switch kind[0] {
	case 'u':
		v, err = strconv.ParseUint(number, 0, bits)
	case 'i':
		var i int64
		i, err = strconv.ParseInt(number, 0, bits)
		v = uint64(i)
	case 'f':
		var f float64
		if f, err = strconv.ParseFloat(number, bits); bits == 32 {
			v = uint64(math.Float32bits(float32(f)))
		} else {
			v = math.Float64bits(f)
		}
	default:
		return nil, fmt.Errorf("there is no type %q", kind)
	}
	if err != nil {
		return nil, fmt.Errorf("%s is no %s", number, kind)
	}
	return binary.LittleEndian.AppendUint64(nil, v)[:bits/8], nil
}

// unquote is what stands between double quotes, with C's escapes.
func unquote(text string) ([]byte, error) {
	if len(text) < 2 || !strings.HasSuffix(text, `"`) {
		return nil, strconv.ErrSyntax
	}
	var out []byte
	for rest := text[1 : len(text)-1]; rest != ""; {
		// A zero with fewer than three digits, which C allows and Go does not.
		if octal := octalEscape(rest); octal > 0 {
			v, err := strconv.ParseUint(rest[1:octal], 8, 8)
			if err != nil {
				return nil, err
			}
			out, rest = append(out, byte(v)), rest[octal:]
			continue
		}
		r, multibyte, tail, err := strconv.UnquoteChar(rest, '"')
		if err != nil {
			return nil, err
		}
		if r < 0x80 || !multibyte {
			out = append(out, byte(r))
		} else {
			out = append(out, string(r)...)
		}
		rest = tail
	}
	if len(out) == 0 {
		return nil, strconv.ErrSyntax
	}
	return out, nil
}

// octalEscape is the length of an octal escape at the beginning, 0 if there is none.
func octalEscape(s string) int {
	if len(s) < 2 || s[0] != '\\' {
		return 0
	}
	n := 1
	for n < len(s) && n < 4 && s[n] >= '0' && s[n] <= '7' {
		n++
	}
	if n == 1 {
		return 0
	}
	return n
}
