"""zlib and hashes: small messages compressed, expanded and digested."""
import hashlib
import zlib

import steady  # noqa: F401


def prepare(size):
    return size, b" ".join(b"message %d" % (i * i) for i in range(150))


def run(inputs):
    size, text = inputs
    total = 0
    for i in range(size):
        packed = zlib.compress(text[i % 200:], 1)
        total += len(packed) + len(zlib.decompress(packed))
        total += hashlib.sha256(packed).digest()[0]
    return total, None
