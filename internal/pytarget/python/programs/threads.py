# 256 threads: some wait for ever, some with a time limit, some work; all must still be there and right.
import threading
import time

stop = threading.Event()
results = {}


def waits(number):
    stop.wait()
    results[number] = True


def sleeps(number):
    while not stop.wait(0.5):
        pass
    results[number] = True


def works(number):
    right = True
    while not stop.is_set():
        items = [str(i) for i in range(number, number + 200)]
        right = right and items[-1] == str(number + 199)
        time.sleep(0.02)
    results[number] = right


running = [threading.Thread(target=[waits, waits, sleeps, works][i % 4], args=(i,), daemon=True) for i in range(255)]
threading.stack_size(256 * 1024)
for thread in running:
    thread.start()


def check():
    assert all(thread.is_alive() for thread in running)
    stop.set()
    for thread in running:
        thread.join(30)
    assert len(results) == 255 and all(results.values())
