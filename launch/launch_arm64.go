package launch

// There is no launcher and no gate for this processor yet.
var launcherCode, gateCode []byte

const (
	launcherAction  = 0
	launcherMask    = 32
	launcherWait    = 40
	launcherSetMask = 44
	launcherFail    = 48
	launcherIgnored = 52
	launcherPath    = 120

	launcherMachine = 183 // EM_AARCH64

	gateArrived = 0
	gateEntry   = 0
	gatePause   = 8
	gateOpen    = 24
	gateSleeps  = 28
	gateKeeper  = 32
	gateSize    = 40
)
