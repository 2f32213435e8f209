"""A C library makes binary trees and frees them: nothing but malloc and free, the worst that there is."""
import nativelib


def prepare(size):
    return size


def run(size):
    total = 0
    for i in range(size):
        total += nativelib.library.trees(9, 1)
    return total % (1 << 64), None
