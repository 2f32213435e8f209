"""A C library fills buffers that grow by realloc."""
import nativelib


def prepare(size):
    return size


def run(size):
    total = 0
    for i in range(size):
        total += nativelib.library.buffers(4, 1500 + i % 100)
    return total % (1 << 64), None
