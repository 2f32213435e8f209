# Threads that start, allocate and end all the time.
import threading

started = ended = 0
wrong = []


def short(number):
    items = {str(i): [i] * 5 for i in range(100)}
    if sum(len(item) for item in items.values()) != 500:
        wrong.append(number)


def step():
    global started, ended
    batch = [threading.Thread(target=short, args=(i,)) for i in range(8)]
    for thread in batch:
        thread.start()
        started += 1
    for thread in batch:
        thread.join()
        ended += 1


def check():
    assert started == ended > 0 and not wrong, (started, ended, wrong)
    assert threading.active_count() == 1
