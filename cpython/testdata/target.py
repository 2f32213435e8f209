"""A target for the tests: threads that stand still in known places, and commands that tell the truth about them.

Reads a command from each line of standard input and answers with one line. Runs on 3.6 and later.
"""
import json
import sys
import threading

release = threading.Event()
standing = []
started = threading.Semaphore(0)


def stand():
    started.release()
    release.wait()


def recurse(depth):
    if depth:
        return recurse(
            depth - 1
        )
    stand()


class Method:
    def outer(self):
        def inner(x):
            stand()
            return x
        return sorted([2, 1], key=lambda x: inner(x))

    @classmethod
    def alternative(cls):
        return [cls().outer() for _ in range(1)]


def generator(depth):
    if depth:
        yield from generator(depth - 1)
    else:
        stand()
        yield 1


def consume():
    abandoned = generator(0).gi_frame  # an unfinished generator is on no stack
    for _ in generator(3):
        pass
    return abandoned


async def coroutine(depth):
    if depth:
        return await coroutine(depth - 1)
    stand()


def drive():
    try:
        coroutine(4).send(None)
    except StopIteration:
        pass


def many_lines():
    value = (
        [1,
         2],
        dict(
            a=stand(),

        ),
    )
    return value


def named(filename, name):
    source = "\n" * 300 + "def {0}(f):\n  x = 1\n  return f(\n  )\n".format(name)
    space = {}
    exec(compile(source, filename, "exec"), space)
    return lambda: space[name](stand)


def context():
    with threading.RLock():
        try:
            raise ValueError
        except ValueError:
            stand()
        finally:
            pass


bodies = [
    lambda: recurse(0),
    lambda: recurse(700),
    Method.alternative,
    consume,
    drive,
    many_lines,
    context,
    named("caf\xe9.py", "caf\xe9"),
    named("\u4e2d\u6587/\u6a21.py", "\u540d"),
    named("\U0001f40d.py", "plain"),
    named("not-utf8-\udc80\udcff.py", "surrogate"),
]


def begin():
    for body in bodies:
        t = threading.Thread(target=body, daemon=True)
        t.start()
        standing.append(t)
    for _ in bodies:
        started.acquire()


def text(s):
    return s.encode("utf-8", "backslashreplace").decode("utf-8")


def stack(frame):
    out = []
    while frame is not None:
        code = frame.f_code
        qualname = getattr(code, "co_qualname", code.co_name)
        out.append([text(code.co_filename), frame.f_lineno, text(code.co_name), text(qualname), code.co_firstlineno])
        frame = frame.f_back
    return out


def frames():
    current = sys._current_frames()
    return {str(t.ident): stack(current[t.ident]) for t in standing}


def lines(code):
    """Ranges [start, end, line or None] of one code object, by the interpreter's own account."""
    if hasattr(code, "co_lines"):
        return [list(r) for r in code.co_lines()]
    import dis
    starts = list(dis.findlinestarts(code))
    ends = [s for s, _ in starts[1:]] + [len(code.co_code)]
    return [[s, e, line] for (s, line), e in zip(starts, ends)]


def nested(code):
    yield code
    for const in code.co_consts:
        if isinstance(const, type(code)):
            yield from nested(const)


def export(limit):
    """Code objects of the standard library: first line, line table in hexadecimal, ranges."""
    import os
    folder = os.path.dirname(os.__file__)
    out = []
    for name in sorted(os.listdir(folder)):
        if not name.endswith(".py") or len(out) >= limit:
            continue
        with open(os.path.join(folder, name), "rb") as f:
            module = compile(f.read(), name, "exec")
        for code in nested(module):
            table = code.co_linetable if hasattr(code, "co_linetable") else code.co_lnotab
            out.append({"name": text(code.co_name), "first": code.co_firstlineno, "table": table.hex(),
                        "length": len(code.co_code), "lines": lines(code)})
    return out


def tracemalloc_on():
    import tracemalloc
    tracemalloc.start(5)
    return tracemalloc.is_tracing()


def tracemalloc_off():
    import tracemalloc
    tracemalloc.stop()
    return tracemalloc.is_tracing()


subinterpreters = []


def subinterpreter():
    for name in ("_interpreters", "_xxsubinterpreters"):
        try:
            module = __import__(name)
        except ImportError:
            continue
        subinterpreters.append(module.create())
        return len(module.list_all())
    return 0


class Last:
    """Is deleted while the interpreter finalises, and then waits for a line."""

    def __init__(self):
        import os
        self.read, self.write = os.read, os.write

    def __del__(self):
        self.write(1, b"finalising\n")
        self.read(0, 1)


def leave():
    release.set()
    for t in standing:
        t.join()
    sys.modules["last"] = Last()
    sys.exit(0)


def spin():
    """Never stands still again: calls, generators, exceptions, threads that come and go."""
    def busy(n):
        return n if n == 0 else busy(n - 1) + sum(x for x in range(3))

    def forever():
        while True:
            busy(20)
            short = threading.Thread(target=busy, args=(5,))
            short.start()
            short.join()

    for _ in range(2):
        threading.Thread(target=forever, daemon=True).start()
    return True


def main():
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(eval(line)), flush=True)


main()
