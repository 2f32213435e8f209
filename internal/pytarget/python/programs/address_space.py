# The address space is limited to a little more than what is used.
import resource

ROOM = 64 << 20
with open("/proc/self/statm") as statm:
    limit = int(statm.read().split()[0]) * resource.getpagesize() + ROOM
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def step():
    assert len([bytes(1000) for _ in range(2000)]) == 2000


def check():
    try:
        bytearray(2 * ROOM)
        raise AssertionError("the limit is gone")
    except MemoryError:
        pass
    assert len(bytearray(ROOM // 8)) == ROOM // 8
