"""Worker threads that take jobs from one queue, allocate, and put results into another."""
import queue
import threading

WORKERS = 4
DONE = None


def work(jobs, results):
    while True:
        job = jobs.get()
        if job is DONE:
            return
        rows = [{"n": n, "square": n * n, "text": "row %d" % n} for n in range(job, job + 50)]
        index = {row["text"]: (row["n"], row["square"]) for row in rows}
        results.put((job, sum(square for _, square in index.values())))


def prepare(size):
    return size


def run(size):
    jobs, results = queue.Queue(64), queue.Queue()
    workers = [threading.Thread(target=work, args=(jobs, results)) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    for job in range(size):
        jobs.put(job)
    for _ in workers:
        jobs.put(DONE)
    for worker in workers:
        worker.join()
    total = 0
    for _ in range(size):
        job, squares = results.get()
        total += job ^ squares
    return total, None
