package inferior

import (
	"fmt"

	"github.com/heaptap/heaptap/call"
	"github.com/heaptap/heaptap/dso"
	"github.com/heaptap/heaptap/mem"
)

// threadLocal is not built for arm64.
func threadLocal(_ mem.Reader, _ []*dso.Module, f *dso.Found, _ mem.Addr) (mem.Addr, error) {
	return 0, fmt.Errorf("find the thread's own %s: %w", f.Name, call.ErrUnsupported)
}
