package launch

// relayHandler is the signal handler and what it returns to.
func relayHandler() (handler, restorer uintptr) { return handlerAddress(), restorerAddress() }

func handlerAddress() uintptr
func restorerAddress() uintptr

// These are entered by the kernel only.
func onSignal()
func restoreSignal()
