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
    library.allocate.restype = library.map_pages.restype = ctypes.c_void_p
    library.allocate.argtypes = [ctypes.c_int, ctypes.c_size_t]
    library.release.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
    library.play.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_size_t]
    library.in_threads.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_int]
    library.in_foreign_thread.argtypes = [ctypes.py_object]
    library.at_thread_end.argtypes = library.in_ending_thread.argtypes = [ctypes.c_int, ctypes.c_size_t]
    library.wait_and_allocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_size_t]
    library.map_pages.argtypes = [ctypes.c_size_t]
    library.unmap_pages.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
    library.load_in_thread.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t]

FUNCTIONS = """raw_malloc raw_calloc raw_realloc mem_malloc mem_calloc mem_realloc obj_malloc obj_calloc obj_realloc
    malloc calloc realloc reallocarray posix_memalign aligned_alloc memalign valloc pvalloc mmap""".split()
raw, mem, obj, malloc, valloc, mmap = map(FUNCTIONS.index, "raw_malloc mem_malloc obj_malloc malloc valloc mmap".split())


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
    lines.allocate()
    for _ in range(2):
        lines.allocate()
    (lines
     .allocate())


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


def foreign_threads(threads, times):
    giving.in_threads(threads, raw, 450001, times)


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


def named():
    prctl_name(b"first name")
    leaf(440000)
    prctl_name(b"second name")
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
            made = [bytes(700) for _ in range(10000)] + [{i: str(i)} for i in range(1000)]
            leaf(610000)
            del made
        finally:
            os._exit(7)
    leaf(610001)
    return os.waitpid(pid, 0)[1] >> 8


# What waits, with the GIL or without.

def waiting_in_c(library, asked, said):
    library.wait_and_allocate(asked, said, raw, 700000)


def waiting_in(wait):
    wait()
    leaf(700001)


# Leaks and peaks.

before = []


def prepare(blocks):
    before.extend(keeping.allocate(raw, 800000) for _ in range(blocks))


def free_some(blocks):
    for _ in range(blocks):
        keeping.release(raw, before.pop(), 0)
    keeping.allocate(raw, 800001)


held = {}


def take(name, size):
    held[name] = keeping.allocate(raw, size)


def give(name):
    keeping.release(raw, held.pop(name), 0)


# Functions to tell peaks by.

def a(name, size): take(name, size)
def b(name, size): take(name, size)
def c(name, size): take(name, size)
