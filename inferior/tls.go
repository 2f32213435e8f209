package inferior

// unusedTLSError says that a thread has no copy of a module's thread-local variables yet: it gets one when it first
// uses one.
type unusedTLSError struct{ module string }

func (e *unusedTLSError) Error() string {
	return "the thread has not used " + e.module + "'s thread-local storage yet"
}
