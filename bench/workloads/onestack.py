"""So many live blocks, all of them allocated at one place. For the cost of a dump."""


def prepare(size):
    return [None] * size


def run(kept):
    for i in range(len(kept)):
        kept[i] = object()
    return len(kept), kept
