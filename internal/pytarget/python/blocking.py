"""Targets that are idle in one system call, made by number through ctypes so that nothing retries it for them.

set_up(NAME) makes what the call needs and a partner: a forked child that ends the wait when the test asks on descriptor
5. enter() answers, then waits in the call. A call with a time limit is made over and over until the next request comes;
the others return when the partner has acted. report() tells how the calls ended: anything but the expected result (EINTR
above all) and the shortest and longest time that a call with a limit took.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import pty
import select
import signal
import socket
import struct
import tempfile
import threading
import time

import pytarget

CONTROL = 5  # the partner's requests
LIMIT = 1.0  # seconds that a call with a time limit waits

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
holding = ctypes.PyDLL(None, use_errno=True)  # calls made through it keep the GIL

NUMBERS = {
    "x86_64": dict(
        read=0, write=1, poll=7, select=23, nanosleep=35, pause=34, recvfrom=45, connect=42, accept=43, accept4=288,
        wait4=61, semget=64, semop=65, msgget=68, msgsnd=69, msgrcv=70, fcntl=72, flock=73, rt_sigtimedwait=128,
        rt_sigsuspend=130, futex=202, io_setup=206, io_getevents=208, semtimedop=220, clock_nanosleep=230,
        epoll_wait=232, mq_open=240, mq_timedsend=242, mq_timedreceive=243, waitid=247, inotify_init1=294,
        inotify_add_watch=254, openat=257, pselect6=270, ppoll=271, splice=275, epoll_pwait=281, timerfd_create=283,
        timerfd_settime=286, signalfd4=289, eventfd2=290, gettid=186, tgkill=234),
    "aarch64": dict(
        io_setup=0, io_getevents=4, eventfd2=19, epoll_pwait=22, fcntl=25, inotify_init1=26, inotify_add_watch=27,
        flock=32, openat=56, read=63, write=64, pselect6=72, ppoll=73, signalfd4=74, splice=76,
        timerfd_create=85, timerfd_settime=86, waitid=95, futex=98, nanosleep=101, clock_nanosleep=115,
        rt_sigsuspend=133, rt_sigtimedwait=137, mq_open=180, mq_timedsend=182, mq_timedreceive=183, msgget=186,
        msgrcv=188, msgsnd=189, semget=190, semtimedop=192, semop=193, accept=202, connect=203, recvfrom=207,
        accept4=242, wait4=260, gettid=178, tgkill=131),
}[platform.machine()]


def syscall(name, *arguments):
    """The result of a system call, or minus its errno."""
    converted = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    result = libc.syscall(ctypes.c_long(NUMBERS[name]), *converted)
    return result if result != -1 else -ctypes.get_errno()


def must(name, *arguments):
    result = syscall(name, *arguments)
    if result < 0:
        raise OSError(-result, "%s: %s" % (name, os.strerror(-result)))
    return result


def timespec(seconds):
    return struct.pack("qq", int(seconds), int(seconds % 1 * 1e9))


class Case(object):
    """One blocking call.

    call makes it and returns what it gave; names are the system calls in which it may be seen; wanted is the result, or
    a function that judges it; release ends the wait, in the partner; prepare runs in the partner first; limit is how
    long the call waits by itself, in seconds.
    """

    def __init__(self, call, names, wanted, release=None, prepare=None, limit=None):
        self.call, self.names, self.release, self.prepare, self.limit = call, names, release, prepare, limit
        self.wanted = wanted if callable(wanted) else lambda result: result == wanted


def raw(name, *arguments, **options):
    return Case(lambda: syscall(name, *arguments), [name], **options)


CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


@case
def read_pipe():
    end, other = os.pipe()
    return raw("read", end, ctypes.create_string_buffer(16), 16, wanted=1, release=lambda: os.write(other, b"x"))


@case
def read_terminal():
    master, slave = pty.openpty()
    return raw("read", slave, ctypes.create_string_buffer(16), 16, wanted=2, release=lambda: os.write(master, b"x\n"))


@case
def read_eventfd():
    event = must("eventfd2", 0, 0)
    return raw("read", event, ctypes.create_string_buffer(8), 8, wanted=8,
               release=lambda: os.write(event, struct.pack("Q", 1)))


@case
def read_timerfd():
    timer = must("timerfd_create", 1, 0)  # CLOCK_MONOTONIC

    def call():
        must("timerfd_settime", timer, 0, timespec(0) + timespec(LIMIT), None)
        return syscall("read", timer, ctypes.create_string_buffer(8), 8)
    return Case(call, ["read"], 8, limit=LIMIT)


@case
def read_inotify():
    folder = tempfile.mkdtemp()
    watch = must("inotify_init1", 0)
    must("inotify_add_watch", watch, folder.encode(), 0x100)  # IN_CREATE
    return raw("read", watch, ctypes.create_string_buffer(4096), 4096, wanted=lambda result: result > 0,
               release=lambda: open(os.path.join(folder, "x"), "w").close())


def blocked(*signals):
    """Block signals and return their set as the kernel wants it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    return struct.pack("Q", sum(1 << (number - 1) for number in signals))


def poke():
    """Signal the thread that waits: another one of the process might not block or handle the signal."""
    must("tgkill", os.getppid(), thread, signal.SIGUSR1)


def handled():
    """Count SIGUSR1 in a handler, which makes every call return EINTR or start anew."""
    signal.signal(signal.SIGUSR1, lambda number, frame: None)


@case
def read_signalfd():
    signals = blocked(signal.SIGUSR1)
    descriptor = must("signalfd4", -1, signals, 8, 0)
    return raw("read", descriptor, ctypes.create_string_buffer(128), 128, wanted=128, release=poke)


@case
def write_pipe():
    end, other = os.pipe()
    os.set_blocking(other, False)
    try:
        while True:
            os.write(other, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(other, True)
    return raw("write", other, b"y" * 4096, 4096, wanted=4096, release=lambda: os.read(end, 1 << 16))


@case
def splice_pipe():
    source, fill = os.pipe()
    keep, sink = os.pipe()
    return raw("splice", source, None, sink, None, 100, 0, wanted=1, release=lambda: os.write(fill, b"x"))


@case
def open_fifo():
    path = os.path.join(tempfile.mkdtemp(), "fifo")
    os.mkfifo(path)
    return raw("openat", -100, path.encode(), os.O_RDONLY, wanted=lambda result: result > 0,
               release=lambda: open(path, "w"))


def listener(backlog):
    server = socket.socket(socket.AF_UNIX)
    server.bind(b"\0heaptap-test-%d" % os.getpid())
    server.listen(backlog)
    return server


def dial(server):
    client = socket.socket(socket.AF_UNIX)
    client.connect(server.getsockname())
    return client


@case
def accept():
    server = listener(1)
    return raw("accept4", server.fileno(), None, None, 0, wanted=lambda result: result > 0,
               release=lambda: dial(server))


@case
def connect():
    server = listener(0)
    first, second = dial(server), socket.socket(socket.AF_UNIX)
    address = struct.pack("H", socket.AF_UNIX) + server.getsockname()
    made = raw("connect", second.fileno(), address, len(address), wanted=0, release=server.accept)
    made.keep = first, second
    return made


@case
def recv():
    here, there = socket.socketpair()
    made = raw("recvfrom", here.fileno(), ctypes.create_string_buffer(16), 16, 0, None, None, wanted=1,
               release=lambda: there.send(b"x"))
    made.keep = here
    return made


@case
def recv_timed():
    here, there = socket.socketpair()
    here.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timespec(LIMIT))
    made = raw("recvfrom", here.fileno(), ctypes.create_string_buffer(16), 16, 0, None, None, wanted=-errno.EAGAIN,
               limit=LIMIT)
    made.keep = here, there
    return made


@case
def nanosleep():
    return raw("nanosleep", timespec(LIMIT), None, wanted=0, limit=LIMIT)


@case
def clock_nanosleep_absolute():
    def call():
        return syscall("clock_nanosleep", 1, 1, timespec(time.clock_gettime(time.CLOCK_MONOTONIC) + LIMIT), None)
    return Case(call, ["clock_nanosleep"], 0, limit=LIMIT)


def pollfd(descriptor):
    return struct.pack("ihh", descriptor, select.POLLIN, 0)


@case
def poll():
    end, other = os.pipe()
    return raw("poll", ctypes.create_string_buffer(pollfd(end)), 1, -1, wanted=1, release=lambda: os.write(other, b"x"))


@case
def poll_timed():
    return raw("poll", None, 0, int(LIMIT * 1000), wanted=0, limit=LIMIT)


@case
def ppoll_timed():
    def call():
        limit = ctypes.create_string_buffer(timespec(LIMIT))  # the kernel writes what is left
        return syscall("ppoll", None, 0, limit, struct.pack("Q", 0), 8)
    return Case(call, ["ppoll"], 0, limit=LIMIT)


@case
def select_timed():
    def call():
        limit = ctypes.create_string_buffer(struct.pack("qq", int(LIMIT), int(LIMIT % 1 * 1e6)))
        return syscall("select", 0, None, None, None, limit)
    return Case(call, ["select"], 0, limit=LIMIT)


@case
def pselect():
    end, other = os.pipe()
    bits = ctypes.create_string_buffer(128)
    struct.pack_into("Q", bits, end // 64 * 8, 1 << (end % 64))
    return raw("pselect6", end + 1, bits, None, None, None, None, wanted=1, release=lambda: os.write(other, b"x"))


def watched(descriptor):
    """An epoll descriptor that watches descriptor, if any; never closed."""
    poller = select.epoll()
    if descriptor is not None:
        poller.register(descriptor, select.EPOLLIN)
    watched.keep = poller
    return poller.fileno()


@case
def epoll_wait():
    end, other = os.pipe()
    return raw("epoll_pwait", watched(end), ctypes.create_string_buffer(12), 1, -1, None, 8, wanted=1,
               release=lambda: os.write(other, b"x"))


@case
def epoll_wait_timed():
    return raw("epoll_wait", watched(None), ctypes.create_string_buffer(12), 1, int(LIMIT * 1000), wanted=0,
               limit=LIMIT)


@case
def futex():
    page = mmap.mmap(-1, 4096)  # shared with the partner
    word = ctypes.c_int.from_buffer(page)

    def release():
        # The word stays as it is: a waiter that a tracer has let go may not have run yet, and would on its return find
        # a changed word, EAGAIN, which a restarted futex(2) may answer. So wake until somebody was woken.
        while must("futex", ctypes.byref(word), 1, 1, None, None, 0) == 0:  # FUTEX_WAKE
            pass
    return raw("futex", ctypes.byref(word), 0, 0, None, None, 0, wanted=0, release=release)


@case
def futex_timed():
    word = ctypes.c_int()
    return raw("futex", ctypes.byref(word), 128, 0, timespec(LIMIT), None, 0, wanted=-errno.ETIMEDOUT, limit=LIMIT)


@case
def pause():
    handled()
    return raw("pause", wanted=-errno.EINTR, release=poke)


@case
def sigsuspend():
    handled()
    blocked(signal.SIGUSR1)
    return raw("rt_sigsuspend", struct.pack("Q", 0), 8, wanted=-errno.EINTR, release=poke)


@case
def sigwaitinfo():
    return raw("rt_sigtimedwait", blocked(signal.SIGUSR1), None, None, 8, wanted=int(signal.SIGUSR1), release=poke)


@case
def sigtimedwait():
    return raw("rt_sigtimedwait", blocked(signal.SIGUSR1), None, timespec(LIMIT), 8, wanted=-errno.EAGAIN, limit=LIMIT)


def semaphore(change):
    return struct.pack("Hhh", 0, change, 0)


@case
def semop():
    number = must("semget", 0, 1, 0o1600)  # IPC_PRIVATE, IPC_CREAT
    return raw("semop", number, semaphore(-1), 1, wanted=0, release=lambda: must("semop", number, semaphore(1), 1))


@case
def semtimedop():
    number = must("semget", 0, 1, 0o1600)
    return raw("semtimedop", number, semaphore(-1), 1, timespec(LIMIT), wanted=-errno.EAGAIN, limit=LIMIT)


@case
def msgrcv():
    number = must("msgget", 0, 0o1600)
    return raw("msgrcv", number, ctypes.create_string_buffer(24), 16, 0, 0, wanted=1,
               release=lambda: must("msgsnd", number, struct.pack("q", 1) + b"x", 1, 0))


@case
def mq_receive():
    queue = must("mq_open", b"heaptap", os.O_RDWR | os.O_CREAT, 0o600, None)
    return raw("mq_timedreceive", queue, ctypes.create_string_buffer(8192), 8192, None, None, wanted=1,
               release=lambda: must("mq_timedsend", queue, b"x", 1, 0, None))


@case
def io_getevents():
    context = ctypes.c_ulong()
    must("io_setup", 1, ctypes.byref(context))
    return raw("io_getevents", context, 1, 1, ctypes.create_string_buffer(32), timespec(LIMIT), wanted=0, limit=LIMIT)


def held(lock):
    """A descriptor of a file that the partner locks before we do, and the partner's two steps."""
    path = os.path.join(tempfile.mkdtemp(), "lock")
    here = open(path, "w")
    theirs = []

    def prepare():
        theirs.append(open(path, "w"))
        lock(theirs[0], fcntl.LOCK_EX)
    return here, prepare, lambda: lock(theirs[0], fcntl.LOCK_UN)


@case
def flock():
    here, prepare, release = held(fcntl.flock)
    made = raw("flock", here.fileno(), fcntl.LOCK_EX, wanted=0, prepare=prepare, release=release)
    made.keep = here
    return made


@case
def fcntl_setlkw():
    here, prepare, release = held(fcntl.lockf)
    request = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)
    made = raw("fcntl", here.fileno(), fcntl.F_SETLKW, request, wanted=0, prepare=prepare, release=release)
    made.keep = here
    return made


@case
def wait4():
    return raw("wait4", -1, None, 0, None, wanted=lambda result: result == partner, release=lambda: os._exit(0))


@case
def waitid():
    return raw("waitid", 0, -1, None, 4, None, wanted=0, release=lambda: os._exit(0))  # P_ALL, WEXITED


@case
def python_sleep():
    return Case(lambda: time.sleep(LIMIT), ["select", "pselect6", "clock_nanosleep"], lambda result: result is None, limit=LIMIT)


@case
def python_lock():
    lock = threading.Lock()
    lock.acquire()
    return Case(lambda: lock.acquire(timeout=LIMIT), ["futex"], False, limit=LIMIT)


@case
def python_accept():
    server = listener(1)
    return Case(lambda: server.accept()[0].fileno(), ["accept", "accept4"], lambda result: result > 0,
                release=lambda: dial(server))


@case
def python_readline():
    end, other = os.pipe()
    stream = os.fdopen(end)
    return Case(stream.readline, ["read"], "x\n", release=lambda: os.write(other, b"x\n"))


@case
def holding_gil():
    """In C with the GIL held, while three other threads want it."""
    end, other = os.pipe()
    buffer = ctypes.create_string_buffer(16)
    done = []

    def compete():
        while not done:
            time.sleep(0.001)
    for _ in range(3):
        threading.Thread(target=compete, daemon=True).start()

    def call():
        result = holding.read(end, buffer, 16)
        done.append(True)
        return result
    return Case(call, ["read"], 1, release=lambda: os.write(other, b"x"))


chosen = partner = None
thread = must("gettid")
ended = []   # results that were not expected
elapsed = []  # seconds, of calls with a limit


def set_up(name):
    global chosen, partner
    chosen = CASES[name]()
    ready, tell = os.pipe()
    partner = os.fork()
    if partner == 0:
        try:
            os.close(pytarget.REQUESTS)
            os.close(pytarget.ANSWERS)
            if chosen.prepare:
                chosen.prepare()
            os.close(tell)
            while os.read(CONTROL, 1):
                chosen.release()
        finally:
            os._exit(1)
    os.close(tell)
    os.read(ready, 1)  # the end of file: the partner is prepared
    os.close(ready)
    os.close(CONTROL)


def enter():
    """Answer with the system calls' numbers and the thread that waits in them, and go and wait."""
    pytarget.defer(wait)
    numbers = [NUMBERS[name] for name in chosen.names if name in NUMBERS]
    return {"numbers": numbers, "tid": thread}


def wait():
    while True:
        start = time.monotonic()
        result = chosen.call()
        took = time.monotonic() - start
        if not chosen.wanted(result):
            name = errno.errorcode.get(-result, result) if isinstance(result, int) else result
            ended.append("%r after %.3f s" % (name, took))
        if chosen.limit is None:
            return
        elapsed.append(took)
        if pytarget.channel.waiting():
            return


def report():
    return {"unexpected": ended, "rounds": len(elapsed), "limit": chosen.limit or 0,
            "shortest": min(elapsed or [0]), "longest": max(elapsed or [0])}
