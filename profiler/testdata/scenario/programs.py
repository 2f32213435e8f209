"""Programs of the scenario tests: each does something that tracking could get wrong, and says so by who allocated.

LIBRARY is the path of outside.c's library. Blocks are large, so that they stand apart from the interpreter's own.
"""

import ctypes
import os
import sys
import threading

keeping = ctypes.PyDLL(LIBRARY)  # calls keep the GIL
giving = ctypes.CDLL(LIBRARY)  # calls give it away
for library in keeping, giving:
    for function in library.allocate, library.resize:
        function.restype = ctypes.c_void_p
    library.allocate.argtypes = [ctypes.c_int, ctypes.c_size_t]
    library.release.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
    library.resize.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
    library.play.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_size_t]
    library.in_threads.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_int]
    library.in_foreign_thread.argtypes = [ctypes.py_object]
    library.at_thread_end.argtypes = library.in_ending_thread.argtypes = [ctypes.c_int, ctypes.c_size_t]
    library.wait_and_allocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_size_t]
    library.map_and_unmap.argtypes = [ctypes.c_char_p]
    library.load_in_thread.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t]

FUNCTIONS = """raw_malloc raw_calloc raw_realloc mem_malloc mem_calloc mem_realloc obj_malloc obj_calloc obj_realloc
    malloc calloc realloc reallocarray posix_memalign aligned_alloc memalign valloc pvalloc mmap""".split()
raw, mem, obj, malloc, posix_memalign, valloc, pvalloc, mmap = map(
    FUNCTIONS.index, "raw_malloc mem_malloc obj_malloc malloc posix_memalign valloc pvalloc mmap".split())


def start(function, *args, **kwargs):
    thread = threading.Thread(target=function, args=args, **kwargs)
    thread.daemon = True
    thread.start()
    return thread


def finish(*threads):
    for thread in threads:
        thread.join()


# Each function of the allocators.

def every_function(first, last):
    for what in range(first, last):
        keeping.allocate(what, 100000 + what)


def freed(first, last):
    for what in range(first, last):
        keeping.release(what, keeping.allocate(what, 50000), 50000)


def native_functions():
    every_function(malloc, pvalloc)
    keeping.allocate(pvalloc, 409600)
    keeping.allocate(mmap, 409600)


# Frames.

def deep(n, function, *args):
    return deep(n - 1, function, *args) if n else function(*args)


def leaf(size, what=raw):
    return keeping.allocate(what, size)


def up_and_down():
    deep(200, leaf, 200200)
    leaf(200000)
    deep(3, leaf, 200003)
    deep(150, leaf, 200150)


def through_c(n):
    """Recursion through C: each call goes through a callback of ctypes."""
    if not n:
        return leaf(300000)
    ctypes.PYFUNCTYPE(None)(lambda: through_c(n - 1))()


def generating():
    yield leaf(310000)
    yield leaf(310001)


def resumed():
    generator = generating()
    next(generator)
    deep(2, next, generator)


class Lines(object):
    def __init__(self):
        self.size = 320000

    def allocate(self):
        leaf(self.size); self.size += 1


def several_lines(lines):
    lines.allocate()  # once
    for _ in range(2):
        lines.allocate()  # twice


# Threads.

class Worker(object):
    """A thread that does what it is told, from a stack of its own."""

    def __init__(self, depth=5):
        self.order, self.done = threading.Event(), threading.Event()
        self.function = None
        self.thread = start(deep, depth, self.work)
        self.tell(lambda: None)

    def work(self):
        while True:
            self.order.wait()
            self.order.clear()
            self.function()
            self.done.set()

    def tell(self, function):
        self.function = function
        self.order.set()
        self.done.wait()
        self.done.clear()


def told():
    leaf(400000)


def told_without_gil():
    giving.allocate(raw, 400001)


def many_threads(threads, times):
    def one():
        for _ in range(times):
            giving.allocate(raw, 450000)
    finish(*[start(one) for _ in range(threads)])


def foreign_threads(threads, times, what=raw):
    giving.in_threads(threads, what, 450001, times)


def called_back():
    leaf(410000)


def calls_back():
    giving.in_foreign_thread(called_back)


def ending_thread(what):
    giving.in_ending_thread(what, 420000)


def ending_python_thread(what):
    finish(start(giving.at_thread_end, what, 420001))


def started():
    thread = threading.Thread(target=leaf, args=(430000,))
    thread.start()
    thread.join()


def prctl_name(name):
    if ctypes.CDLL(None).prctl(15, ctypes.c_char_p(name), 0, 0, 0):  # PR_SET_NAME
        raise OSError("prctl")


def named(name):
    leaf(440000)
    prctl_name(name)
    leaf(440001)


# Profile and trace functions of the program's own.

events = []


def note(frame, event, arg):
    if event == "call":
        events.append(frame.f_code.co_name)
    return note


def profiled(install, size):
    install(note)
    try:
        leaf(size)
    finally:
        install(None)
    leaf(size + 1)


def profiled_in_thread():
    finish(start(profiled, sys.setprofile, 510000), start(profiled, sys.settrace, 510010))


# Processes.

def child(n):
    leaf(600000)
    leaf(600000, malloc)
    return n * n


def pool():
    import multiprocessing
    workers = multiprocessing.get_context("fork").Pool(3)
    result = workers.map(child, range(20))
    leaf(600001)
    workers.close()
    workers.join()
    return result


def forked():
    pid = os.fork()
    if not pid:
        try:
            leaf(610000, malloc)
            made = [bytes(700) for _ in range(10000)] + [{i: str(i)} for i in range(1000)]
            leaf(610000)
            del made
        finally:
            os._exit(7)
    leaf(610001)
    return os.waitpid(pid, 0)[1] >> 8


# What waits, with the GIL or without, for somebody outside, having said so. The paths are of FIFOs.

class Woken(Exception):
    pass


def say(path):
    fd = os.open(path + ".said", os.O_RDWR)
    os.write(fd, b".")
    os.close(fd)


def waiting_in_c(library, path, size, what):
    asked, said = [os.open(path + end, os.O_RDWR) for end in (".asked", ".said")]
    library.wait_and_allocate(asked, said, what, size)


def waiting_in(wait, path):
    wait(path)
    leaf(710000)


def wait_in_input(path):
    os.dup2(os.open(path + ".asked", os.O_RDWR), 0)
    sys.stdin = os.fdopen(0)
    say(path)
    input()


def wait_in_accept(path):
    import socket
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path + ".socket")
    listener.listen(1)
    say(path)
    listener.accept()


def wait_in_sleep(path):
    import signal
    import time

    def wake(number, frame):
        raise Woken
    signal.signal(signal.SIGUSR1, wake)
    try:
        say(path)
        time.sleep(1e6)
    except Woken:
        pass


def wait_in_lock(path):
    import signal
    lock = threading.Lock()
    lock.acquire()
    signal.signal(signal.SIGUSR1, lambda number, frame: lock.release())
    say(path)
    lock.acquire()


# Greenlets.

def in_greenlets(size):
    import greenlet

    def first():
        leaf(size)
        two.switch()
        deep(2, leaf, size)
        two.switch()

    def second():
        deep(3, leaf, size)
        one.switch()
        leaf(size)

    one, two = greenlet.greenlet(first), greenlet.greenlet(second)
    one.switch()
    leaf(size)


def in_greenlets_of_threads(threads):
    finish(*[start(in_greenlets, 900000) for _ in range(threads)])


# Leaks, peaks, and what is freed at once.

before = []


def prepare(blocks):
    before.extend(keeping.allocate(raw, 800000) for _ in range(blocks))


def free_some(blocks):
    for _ in range(blocks):
        keeping.release(raw, before.pop(), 0)
    keeping.allocate(raw, 800001)


held = {}
using = raw


def take(name, size):
    held[name] = keeping.allocate(using, size)


def grow(name, size):
    held[name] = keeping.resize(using, held[name], size)


def give(name):
    keeping.release(using, held.pop(name), 0)


def a(name, size):
    take(name, size)


def b(name, size):
    take(name, size)


def c(name, size):
    take(name, size)


def played(score, size):
    keeping.play(score, using, size)


# Libraries that come late, of C and of C++.

def loads(name):
    if giving.load_in_thread(name, b"late", 460000):
        raise OSError("load " + repr(name))


def load(path):
    return ctypes.CDLL(path)


def grown(library):
    library.grow_vector.restype, library.grow_vector.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    return library.grow_vector(200000)


def dropped(library, vector):
    library.drop_vector.argtypes = [ctypes.c_void_p]
    library.drop_vector(vector)
