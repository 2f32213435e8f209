package agent

import (
	"errors"
	"fmt"
)

// ErrNoTables: what stands there are not the agent's tables.
var ErrNoTables = errors.New("not the agent's tables")

// OtherVersionError: the tables were made by another build of the agent.
type OtherVersionError struct{ Have, Want uint64 }

func (e *OtherVersionError) Error() string {
	return fmt.Sprintf("agent %016x is of another build than %016x", e.Have, e.Want)
}

// BadTablesError: the tables hold something that the agent cannot have written.
type BadTablesError struct{ What string }

func (e *BadTablesError) Error() string { return "agent's tables are damaged: " + e.What }

func badTables(format string, args ...any) error {
	return &BadTablesError{What: fmt.Sprintf(format, args...)}
}
