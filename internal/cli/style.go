package cli

// style colours text for a terminal; the zero value leaves it as it is.
type style struct{ on bool }

func (s style) sgr(code, text string) string {
	if !s.on || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (s style) bold(t string) string   { return s.sgr("1", t) }
func (s style) dim(t string) string    { return s.sgr("2", t) }
func (s style) red(t string) string    { return s.sgr("31", t) }
func (s style) green(t string) string  { return s.sgr("32", t) }
func (s style) yellow(t string) string { return s.sgr("33", t) }

// header makes the first line of a grid quieter than its contents.
func (s style) header(row int, line string) string {
	if row == 0 {
		return s.dim(line)
	}
	return line
}

// stdoutStyle and stderrStyle colour only what a terminal will show, and nothing where NO_COLOR (no-color.org) is set.
func (e *Env) stdoutStyle() style { return style{e.Term.Stdout && e.wantsColour()} }
func (e *Env) stderrStyle() style { return style{e.Term.Stderr && e.wantsColour()} }

func (e *Env) wantsColour() bool { return e.Getenv("NO_COLOR") == "" && e.Getenv("TERM") != "dumb" }
