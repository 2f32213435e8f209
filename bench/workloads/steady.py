"""Keeps malloc from giving memory back to the kernel and asking for it again. Whether it does so hangs on what happens to
lie at the end of the heap, and it costs more than what is measured. Not a workload."""
import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h

ctypes.CDLL(None).mallopt(M_TRIM_THRESHOLD, 1 << 28)
ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 25)
