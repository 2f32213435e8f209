# tracemalloc wrapped the allocators before anybody else came.
import tracemalloc

tracemalloc.start(10)
kept = [bytearray(1000) for _ in range(1000)]


def step():
    kept[len(kept) // 2] = bytearray(1000)


def check():
    assert tracemalloc.is_tracing()
    statistics = tracemalloc.take_snapshot().statistics("filename")
    assert sum(entry.size for entry in statistics) >= 1000 * 1000
    assert tracemalloc.get_object_traceback(kept[0]) is not None
    del kept[:-1]
