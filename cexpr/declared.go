package cexpr

// Declares reports whether the built-in table declares a function of that name: then [Program.Run] does without debug
// information for it.
func Declares(name string) bool { return entry(functionLine, name) != "" }
