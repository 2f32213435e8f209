# The program of the test of types in a target that runs: each function allocates objects of one type only, so that the
# stack of a block says what it is. step() replaces some of them, again and again, in the same memory.
import random

kept = [None] * 4000


class A(object):
    def __init__(self, n):
        self.a = n


class B(object):
    __slots__ = ("x", "y")


def make_float(n):
    return n * 1.5


def make_int(n):
    return n + (1 << 70)


def make_list(n):
    return [None] * (n % 30)


def make_tuple(n):
    return (n,) * (n % 8 + 1)


def make_moved_tuple(n):
    return tuple(map(abs, kept_numbers[:n % 40]))


def make_dict(n):
    return {None: None}


def make_set(n):
    return {None}


def make_bytes(n):
    return b"x" * (n % 70 + 2)


def make_str(n):
    return "x" * (n % 70 + 2)


def make_bytearray(n):
    return bytearray(n % 90)


def make_slotted(n):
    return B()


def make_instance(n):
    return A(None)


def make_class_1(n):
    return type("First", (), {})


def make_class_2(n):
    return type("Second", (), {})


def make_first(n):
    return cls1()


def make_second(n):
    return cls2()


kept_numbers = list(range(40))
makers = [f for name, f in sorted(globals().items()) if name.startswith("make_")]
cls1, cls2 = make_class_1(0), make_class_2(0)


def step():
    global cls1, cls2
    for k in range(500):
        n = random.randrange(1000)
        kept[random.randrange(4000)] = makers[k % len(makers)](n)
    cls1, cls2 = make_class_1(0), make_class_2(0)
