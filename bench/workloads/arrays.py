"""NumPy: expressions that make temporaries, small and large."""
import numpy

import steady  # noqa: F401


def prepare(size):
    return size, numpy.arange(2000.0), numpy.arange(60000.0)


def run(inputs):
    size, small, large = inputs
    total = 0.0
    for i in range(size):
        total += float(((small * 2 + i) / (small + 1) - small[::-1]).sum())
        if i % 16 == 0:
            total += float(numpy.sqrt(large * 3 + i)[large > i].mean())
    return "%.6e" % total, None
