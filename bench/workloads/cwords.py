"""A C library counts words in tables of allocated nodes and strings."""
import nativelib


def prepare(size):
    text = b" ".join(b"word%d" % (i * 7919 % 1009) for i in range(4000))
    return size, text


def run(inputs):
    size, text = inputs
    total = 0
    for i in range(size):
        total += nativelib.library.count_words(text[i % 100:])
    return total % (1 << 64), None
