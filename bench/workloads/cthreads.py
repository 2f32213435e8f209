"""Four threads in a C library at the same time, without the GIL."""
import threading

import nativelib

WORKERS = 4


def prepare(size):
    text = b" ".join(b"word%d" % (i * 7919 % 1009) for i in range(4000))
    return size, text


def run(inputs):
    size, text = inputs
    totals = [0] * WORKERS

    def work(number):
        for i in range(size):
            totals[number] += nativelib.library.count_words(text[i % 100 + number:])

    workers = [threading.Thread(target=work, args=(number,)) for number in range(WORKERS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(totals) % (1 << 64), None
