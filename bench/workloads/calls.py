"""Calls of functions and methods that allocate nothing: arithmetic stays within CPython's cached small integers."""


class Counter:
    def __init__(self):
        self.value = 0

    def step(self, by):
        self.value = (self.value + by + 1) % 113
        return self.value


def add(a, b):
    return (a + b) % 109


def mix(a, b, c):
    return add(add(a, b), c)


def prepare(size):
    return size


def run(size):
    counter = Counter()
    value = 0
    for _ in range(size // 199):
        for i in range(199):
            value = mix(value, counter.step(i & 15), i & 31)
    return "%d %d" % (value, counter.value), None
