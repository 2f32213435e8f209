"""The part of every test target that talks with the test: module "pytarget" inside the target.

Requests come as lines of JSON on descriptor 3, answers go as lines of JSON to descriptor 4. The program of a target runs
in __main__. It may define step(), which is called over and over while no request waits, so that a single-threaded target
works and answers; check(), which raises when something in the target has gone wrong; and answer(line).

Written for every version from 2.7 to the newest, with nothing but the standard library.
"""

import ast
import hashlib
import json
import os
import re
import select
import signal
import sys
import traceback

try:
    import ctypes
    libc = ctypes.CDLL(None)
except OSError:  # a static program loads no library, and can't be asked for functions
    libc = None

REQUESTS, ANSWERS = 3, 4


class Channel(object):
    """Lines of JSON over two descriptors. Interrupted calls go on (before 3.5 Python does not see to that itself)."""

    def __init__(self):
        self.buffer = b""

    def waiting(self):
        """Whether a request, or the end of requests, can be read now."""
        if b"\n" in self.buffer:
            return True
        try:
            return bool(select.select([REQUESTS], [], [], 0)[0])
        except (OSError, IOError, select.error):  # a signal came
            return False

    def receive(self):
        """The next request, or None when the test has closed its end."""
        while b"\n" not in self.buffer:
            try:
                data = os.read(REQUESTS, 1 << 16)
            except OSError as err:
                if err.errno == 4:  # EINTR
                    continue
                raise
            if not data:
                return None
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line.decode("ascii"))

    def send(self, answer):
        data = json.dumps(answer).encode("ascii") + b"\n"
        while data:
            try:
                data = data[os.write(ANSWERS, data):]
            except OSError as err:
                if err.errno != 4:
                    raise


channel = Channel()
namespace = sys.modules["__main__"].__dict__
deferred = []


def defer(function):
    """Have function called after the running request was answered: for what blocks."""
    deferred.append(function)


def run(source, name):
    """Run source in __main__; the value of a last statement that is an expression, else None."""
    tree = ast.parse(source, name)
    last = None
    if tree.body and isinstance(tree.body[-1], ast.Expr):
        last = ast.Expression(tree.body.pop().value)
    exec(compile(tree, name, "exec"), namespace)
    if last is not None:
        return eval(compile(last, name, "eval"), namespace)


def answer(request):
    """The value that a request asks for."""
    operation = request["op"]
    if operation == "do":
        return namespace["answer"](request["line"])
    if operation == "observe":
        return inside()
    if operation == "challenge":
        return challenge(request["seed"])
    value = run(request["source"], request["name"])
    return repr(value) if operation == "exec" else value


def serve():
    """Answer requests, and call step() in between, until the test closes its end or asks to end.

    There is at least one step between two requests, but none after "observe", while the test looks from outside."""
    still = False
    while True:
        step = namespace.get("step")
        while step is not None and not still:
            step()
            if channel.waiting():
                break
        request = channel.receive()
        if request is None:
            return 0
        still = request["op"] == "observe"
        if request["op"] == "exit":
            channel.send({"value": ""})
            return request["code"]
        try:
            reply = {"value": answer(request)}
        except BaseException as err:
            try:
                reply = {"error": traceback.format_exc()}
            except Exception:  # the interpreter is too far gone for that
                reply = {"error": repr(err)}
        channel.send(reply)
        while deferred:
            deferred.pop(0)()


def main(program):
    exec(compile(program, "program.py", "exec"), namespace)
    channel.send({"value": os.getpid()})
    return serve()


def alternate_stack():
    """Where handlers of signals run that ask for another stack: address, flags, size; zeros where it can't be asked."""
    if libc is None:
        return [0, 0, 0]
    stack = Altstack()
    if libc.sigaltstack(None, ctypes.byref(stack)):
        raise OSError("sigaltstack")
    return [stack.sp or 0, stack.flags, stack.size]


if libc is not None:
    class Altstack(ctypes.Structure):
        _fields_ = [("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


def inside():
    """What only the process itself can tell of its signal state, of the thread that calls this."""
    handlers = {}
    for number in range(1, signal.NSIG):
        try:
            handler = signal.getsignal(number)
        except ValueError:
            continue
        handlers[str(number)] = getattr(handler, "__name__", str(handler))
    return {"altstack": alternate_stack(), "handlers": handlers}


def sequence(seed):
    """Numbers of 64 bits that the test computes as well (Knuth's MMIX generator)."""
    while True:
        seed = (seed * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        yield seed


def challenge(seed):
    """Compute something fresh with what a broken interpreter gets wrong: five results that the test knows."""
    numbers = sequence(seed)
    values = [next(numbers) for _ in range(2000)]
    ordered = ",".join(str(value) for value in sorted(values))
    digest = hashlib.sha256(ordered.encode("ascii")).hexdigest()

    product = 1
    for value in values[:200]:
        product *= value | 1
    power = pow(3, product, (1 << 521) - 1)

    groups = {}
    for value in values:
        groups.setdefault("%x" % (value >> 55), []).append(value)
    for key in [key for key in groups if len(groups[key]) % 2]:
        del groups[key]
    kept = sum(len(group) * int(key, 16) for key, group in groups.items())

    text = " ".join("%x" % value for value in values)
    words = re.findall(r"[0-9]+[a-f]{2}", text)

    class Node(object):
        def __init__(self, value, rest):
            self.value, self.rest = value, rest

    chain = None
    for value in values:
        chain = Node(value, chain)
    alternating = 0
    while chain is not None:
        alternating = (chain.value - alternating) % (1 << 64)
        chain = chain.rest
    return [digest, str(power), str(kept), "%d:%s" % (len(words), words[-1]), str(alternating)]
