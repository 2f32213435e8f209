"""Allocation churn: small tuples and lists that live for a thousand turns each."""


def prepare(size):
    return size


def run(size):
    window = [None] * 1024
    total = 0
    for i in range(size):
        pair = (i, i + 1)
        window[i & 1023] = [i, pair, [pair]]
        old = window[(i + 512) & 1023]
        if old is not None:
            total += old[1][0] & 7
    return total, None
