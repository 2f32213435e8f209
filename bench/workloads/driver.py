"""Runs workloads for heaptap's benchmark, as the process under measurement.

Obeys one line of standard input at a time and answers each with one line of JSON, so that the benchmark can switch
tracking on between preparing and running, and look at the process while what the workload kept is still alive.
Written for every CPython from 3.6 on.
"""
import gc
import importlib
import json
import os
import select
import sys
import time

VERBS = ("facts", "prepare", "tracemalloc", "memray", "run", "threads", "spin", "longest", "exit")


class Driver:
    def __init__(self):
        self.module = None
        self.inputs = None
        self.kept = None
        self.tracker = None

    def facts(self, *modules):
        """What this interpreter is, and which of the named modules can be imported."""
        found = {}
        for name in modules:
            try:
                found[name] = str(getattr(importlib.import_module(name), "__version__", ""))
            except ImportError as error:
                found[name + "!"] = str(error)
        return {
            "version": sys.version.split()[0],
            "implementation": sys.implementation.name,
            "executable": sys.executable,
            "modules": found,
        }

    def prepare(self, name, size, warm):
        """Import the workload, run it once in small (imports, specialised bytecode), and build its inputs."""
        self.module = importlib.import_module(name)
        self.module.run(self.module.prepare(int(warm)))
        self.inputs = self.module.prepare(int(size))
        gc.collect()
        return {}

    def tracemalloc(self, frames):
        import tracemalloc
        tracemalloc.start(int(frames))
        return {}

    def memray(self, path, python_allocators, native):
        import memray
        self.tracker = memray.Tracker(path, trace_python_allocators=python_allocators == "1", native_traces=native == "1")
        self.tracker.__enter__()
        return {}

    def run(self):
        """Run the workload; what it kept stays alive until the next run."""
        self.kept = None
        wall, cpu = time.perf_counter(), time.process_time()
        check, self.kept = self.module.run(self.inputs)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        return {"wall": wall, "cpu": cpu, "check": str(check)}

    def threads(self, count):
        """Start so many threads that wait."""
        import threading
        event, started = threading.Event(), threading.Semaphore(0)

        def wait():
            started.release()
            event.wait()

        for _ in range(int(count)):
            threading.Thread(target=wait, daemon=True).start()
        for _ in range(int(count)):
            started.acquire()
        return {}

    def spin(self):
        """Answer, then keep the main thread busy until the next command, and note how long it was ever held up."""
        print("{}", file=self.out)
        self.gap, last = 0.0, time.perf_counter()
        while True:
            for _ in range(200):
                now = time.perf_counter()
                if now - last > self.gap:
                    self.gap = now - last
                last = now
            if select.select([0], [], [], 0)[0]:
                return None

    def longest(self):
        """The longest that the last spin was held up, in seconds."""
        return {"gap": self.gap}

    def exit(self):
        # Everything is measured by now: leave without waiting for a tracker's last flush or the interpreter's own end.
        print("{}", file=self.out)
        os._exit(0)

    def serve(self):
        # The workload may print; that must not be taken for an answer.
        self.out = os.fdopen(os.dup(1), "w", 1)
        os.dup2(2, 1)
        for line in sys.stdin:
            verb, *arguments = line.split()
            if verb not in VERBS:
                raise ValueError("unknown command: " + line)
            answer = getattr(self, verb)(*arguments)
            if answer is not None:
                print(json.dumps(answer), file=self.out)


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    Driver().serve()
