# Ten leaks and five growths that are none, all of which happen in each request that a server serves.
import functools
import gc
import queue
import re
import sys
import threading

FOREVER = threading.Event()
KEPT, HANDLERS, ZOMBIES, ERRORS, SESSIONS, PENDING, THREADS = [], [], [], [], {}, [], []
CHAIN = None
extension = None


class Request(object):
    def __init__(self, n):
        self.n = n
        self.path = "/products/%d" % n


# ---- leaks

def leak_list(n):
    KEPT.append(("entry", n, bytes(200)))


@functools.lru_cache(maxsize=None)
def leak_lru(n):
    return "result of %d" % n * 10


class Hub(object):
    def subscribe(self, handler):
        HANDLERS.append(handler)


def leak_callbacks(n):
    request = Request(n)
    Hub().subscribe(lambda event: (request, event))


class Zombie(object):
    def __init__(self):
        self.me = self
        self.body = bytes(300)

    def __del__(self):
        ZOMBIES.append(self)


def leak_cycles(n):
    Zombie()


def leak_threads(n):
    if n % 10 == 0:
        thread = threading.Thread(target=FOREVER.wait, daemon=True)
        thread.start()
        THREADS.append(thread)


async def never(n):
    await Never()
    return bytes(n)


class Never(object):
    def __await__(self):
        yield


def leak_tasks(n):
    PENDING.append(never(n))


def fails(n):
    body = bytes(400)
    raise ValueError(n, len(body))


def leak_tracebacks(n):
    try:
        fails(n)
    except ValueError as error:
        ERRORS.append(error)


# A traceback keeps the frames of all callers, with all that they hold. In a thread of its own that is not the server.
def worker():
    while True:
        n = TODO.get()
        leak_tracebacks(n)
        DONE.put(n)


def in_worker(n):
    TODO.put(n)
    DONE.get()


TODO, DONE = queue.SimpleQueue(), queue.SimpleQueue()
threading.Thread(target=worker, daemon=True).start()


def leak_extension(n):
    if extension is not None:
        extension.forget(256)


def leak_dict(n):
    SESSIONS["session %d" % n] = {"user": "user %d" % n, "basket": [n]}


def leak_closure(n):
    global CHAIN
    before, body = CHAIN, bytes(150)

    def link():
        return before, body
    CHAIN = link


# ---- growths that are none

@functools.lru_cache(maxsize=70)
def innocent_lru(n):
    return "page %d" % n * 30


BUFFER = []


def innocent_sawtooth(n):
    BUFFER.append(bytes(500))
    if len(BUFFER) >= 100:
        del BUFFER[:]


TABLES = []


def innocent_once(n):
    if n == 200:
        TABLES.append([bytes(100 + i) for i in range(500)])


NAMES = []


def innocent_interned(n):
    NAMES.append(re.compile("product-%d" % (n % 60)))
    NAMES.append(sys.intern("name-%d" % (n % 60)))
    del NAMES[:-120]


POOL = []


def innocent_pool(n):
    if len(POOL) < 130:
        POOL.append(bytearray(800))


LEAKS = [leak_list, leak_lru, leak_callbacks, leak_cycles, leak_threads, leak_tasks, in_worker, leak_extension,
         leak_dict, leak_closure]
INNOCENT = [innocent_lru, innocent_sawtooth, innocent_once, innocent_interned, innocent_pool]
served = 0


def serve(line):
    """What both servers do with a request."""
    global served
    served += 1
    for f in LEAKS:
        f(served)
    for f in INNOCENT:
        f(served)
    return b"served %d " % served + line.strip() * 3 + b"\n"
