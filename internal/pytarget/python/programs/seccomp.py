# A filter forbids memfd_create: MODE says whether it fails with EPERM ("errno") or kills the process ("kill").
import ctypes
import os
import platform
import struct

libc = ctypes.CDLL(None, use_errno=True)
architecture, number = {"x86_64": (0xC000003E, 319), "aarch64": (0xC00000B7, 279)}[platform.machine()]
action = {"errno": 0x00050001, "kill": 0x80000000}[MODE]
filter = b"".join(struct.pack("HBBI", *instruction) for instruction in [
    (0x20, 0, 0, 4),                # load seccomp_data.arch
    (0x15, 0, 3, architecture),     # another architecture: allow
    (0x20, 0, 0, 0),                # load seccomp_data.nr
    (0x15, 0, 1, number),           # not memfd_create: allow
    (0x06, 0, 0, action),
    (0x06, 0, 0, 0x7FFF0000),       # allow
])
held = ctypes.create_string_buffer(filter, len(filter))
program = struct.pack("HxxxxxxP", len(filter) // 8, ctypes.addressof(held))
assert libc.prctl(38, 1, 0, 0, 0) == 0      # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, program) == 0      # PR_SET_SECCOMP, a filter


def step():
    assert len([str(i) for i in range(200)]) == 200


def forbidden():
    ctypes.set_errno(0)
    return libc.syscall(ctypes.c_long(number), b"x", 0) == -1 and ctypes.get_errno() == 1


def check():
    if MODE == "errno":
        assert forbidden()
        return
    child = os.fork()
    if child == 0:
        forbidden()
        os._exit(0)
    assert os.waitpid(child, 0)[1] & 0x7F == 31, "memfd_create does not kill"  # SIGSYS
