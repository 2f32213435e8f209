"""The C library of the native workloads. Not a workload."""
import ctypes
import os

import steady  # noqa: F401

library = ctypes.CDLL(os.path.join(os.path.dirname(os.path.abspath(__file__)), "native.so"))
for name, arguments in (
    ("count_words", [ctypes.c_char_p]),
    ("trees", [ctypes.c_uint, ctypes.c_uint64]),
    ("buffers", [ctypes.c_uint64, ctypes.c_uint64]),
):
    getattr(library, name).argtypes = arguments
    getattr(library, name).restype = ctypes.c_uint64
