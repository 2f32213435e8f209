"""Recursion 100 deep, allocating at the leaf, half of it in the leaf itself and half in functions that it calls."""

DEPTH = 100


def point(i):
    return [i, (i, i)]


def segment(i):
    return [point(i), point(i + 1)]


def leaf(size):
    window = [None] * 256
    total = 0
    for i in range(size):
        window[i & 255] = [i, (i, [i])]
        if not i & 3:
            window[(i + 128) & 255] = segment(i)
        total += len(window[i & 127] or ())
    return total


def down(depth, size):
    if depth == 0:
        return leaf(size)
    return down(depth - 1, size)


def prepare(size):
    return size


def run(size):
    total = 0
    for _ in range(max(1, size // 500)):
        total += down(DEPTH, 500)
    return total, None
