"""Worker threads that take jobs from one queue, allocate, and put results into another."""
import queue
import threading

WORKERS, AHEAD = 4, 64
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
    jobs, results = queue.Queue(AHEAD), queue.Queue()
    workers = [threading.Thread(target=work, args=(jobs, results)) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    total = 0
    for job in range(size + AHEAD):
        if job < size:
            jobs.put(job)
        if job >= AHEAD:  # so that results do not pile up, however long this runs
            number, squares = results.get()
            total += number ^ squares
    for _ in workers:
        jobs.put(DONE)
    for worker in workers:
        worker.join()
    return total, None
