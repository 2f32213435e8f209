package call

import "golang.org/x/sys/unix"

// rankOldCall ranks the system calls that newer processors do not have. timed is whether poll's timeout is finite.
func rankOldCall(nr uint64, timed bool) int {
	switch nr {
	case unix.SYS_POLL:
		if timed {
			return rankTimed
		}
	case unix.SYS_EPOLL_WAIT:
		return rankEintr
	}
	return rankBlocked
}
