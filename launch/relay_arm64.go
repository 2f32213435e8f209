package launch

// relayHandler: there is none for this processor yet.
func relayHandler() (handler, restorer uintptr) { return 0, 0 }
