package inferior

import (
	"github.com/heaptap/heaptap/dso"
	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/unwind"
)

func coldParts(mem.Reader, *unwind.Unwinder, *dso.Symbols, *dso.Found) []span { return nil }

func within([]span, mem.Addr) bool { return false }
