# Answers at the bottom of a deep recursion; allocates there.
import sys
import pytarget

DEPTH = 2500
sys.setrecursionlimit(DEPTH + 1000)


def step():
    assert len([object() for _ in range(100)]) == 100


def deep(left):
    local = [left]
    if left == 0:
        pytarget.channel.send({"value": pytarget.os.getpid()})
        code = pytarget.serve()
    else:
        code = deep(left - 1)
    assert local == [left]
    return code


def check():
    frame, depth = sys._getframe(), 0
    while frame is not None:
        depth += frame.f_code is deep.__code__
        frame = frame.f_back
    assert depth == DEPTH + 1, depth


sys.exit(deep(DEPTH))
