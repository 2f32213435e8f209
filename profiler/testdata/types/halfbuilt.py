# Run by the test of half-built objects: up to 3.11 the collector runs within the allocation of an object, and with it
# finalizers, while the object's memory still holds what was there before. Here that is a tuple that was moved, with
# its count and type, in a block of just the size of the new object.
import gc, os, signal, sys

N = 10  # what a tuple is first made for when it is made of a generator


class Fresh(object):
    __slots__ = tuple("slot%d" % i for i in range(N + 1))


class Finalized(object):
    def __del__(self):
        global stopped
        frame = sys._getframe(1)
        if frame.f_code is make.__code__ and frame.f_lineno == make.__code__.co_firstlineno + 2 and not stopped:
            stopped = True
            os.kill(os.getpid(), signal.SIGSTOP)  # the test looks now


stopped = False
kept = []


def make(numbers):
    moved = tuple(numbers)
    fresh = Fresh()
    return moved, fresh


def build(first):
    """Stops at a collection within make's second line: of the object's own allocation, or of another one there."""
    global stopped
    stopped = False
    for i in range(first, first + 1000):
        gc.disable()
        f = Finalized()
        f.me = f
        del f
        numbers = map(abs, range(22))  # as many as a tuple of 10 that is full grows to
        gc.set_threshold(gc.get_count()[0] + i % 20)
        gc.enable()
        kept.append(make(numbers))
        if stopped:
            break
