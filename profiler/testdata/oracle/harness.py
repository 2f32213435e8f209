# Run by the oracle test in the target, before a program. It measures the program under tracemalloc and afterwards
# answers, for addresses of blocks, what tracemalloc knows of them.
import asyncio, ctypes, gc, json, os, signal, struct, sys, tracemalloc
import _tracemalloc

kept = []
traces = None

traceback_of = ctypes.pythonapi._PyTraceMalloc_GetTraceback
traceback_of.restype = ctypes.py_object
traceback_of.argtypes = [ctypes.c_uint, ctypes.c_size_t]


def measure(program, name):
    global traces, traces_after
    gc.disable()
    code = compile(program, name, "exec")
    tracemalloc.start(100)
    space = {"keep": kept.append, "__name__": "oracle"}
    exec(code, space)
    kept.append(space)
    gc.collect()
    stop, pid, number = os.kill, os.getpid(), int(signal.SIGSTOP)
    traces = _tracemalloc._get_traces()
    stop(pid, number)  # the test looks now
    traces_after = _tracemalloc._get_traces()


class Nothing(object):
    def method(self):
        pass


loop = asyncio.new_event_loop()
future = asyncio.Future(loop=loop)

# Types of which some version keeps dead objects on a free list (Objects/*.c, "free_list").
free_listed = dict((id(t), t.__name__) for t in (
    float, tuple, list, dict, set, int, complex, range, slice, type(Nothing().method), type(len), type(iter([])),
    type(iter(())), type(iter(range(1))), type(sys._getframe()), type({}.items()), type(future.__await__())))
loop.close()
try:
    import contextvars
    free_listed[id(contextvars.Context)] = "Context"
except ImportError:  # before 3.7
    pass


def kind(address, size):
    """The free-listed type of the object in a block, alive or dead, or ''."""
    if size < 16:
        return ""
    words = struct.unpack("%dQ" % min(size // 8, 6), ctypes.string_at(address, min(size // 8, 6) * 8))
    for head in (0, 16, 24, 32):  # of the garbage collector
        if head // 8 + 1 < len(words) and words[head // 8 + 1] in free_listed:
            return free_listed[words[head // 8 + 1]]
    return "float" if size == 24 else ""  # a dead float has the list's link in the place of its type


def answer(line):
    request = json.loads(line)
    index, known = {}, []

    def number(traceback):
        if traceback not in index:
            index[traceback] = len(known)
            known.append("".join("%s:%d\n" % (frame[0], frame[1]) for frame in traceback))
        return index[traceback]

    if request in ("traces", "traces after"):
        out = [[number(t[2]), t[1]] for t in (traces if request == "traces" else traces_after)]
        return json.dumps({"tracebacks": known, "blocks": out})
    tracebacks = [traceback_of(0, address) for address, size in request]
    own = tracemalloc.get_tracemalloc_memory()
    tracemalloc.stop()
    out = []
    for (address, size), traceback in zip(request, tracebacks):
        out.append([-1 if traceback is None else number(traceback), kind(address, size)])
    return json.dumps({"tracebacks": known, "blocks": out, "own": own})
