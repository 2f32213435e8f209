# A storm of signals whose Python handlers allocate: SIGALRM by the clock, SIGPROF by processor time, SIGUSR1 by a child.
import os
import signal
import time

counts = {"SIGALRM": 0, "SIGPROF": 0, "SIGUSR1": 0}
garbage = []


def handler(name):
    def count(number, frame):
        counts[name] += 1
        garbage.append([name] * 10)
        del garbage[:-100]
    return count


for name in counts:
    signal.signal(getattr(signal, name), handler(name))
child = os.fork()
if child == 0:
    os.close(3)
    os.close(4)
    for name in counts:
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    parent = os.getppid()
    try:
        while os.getppid() == parent:
            os.kill(parent, signal.SIGUSR1)
            signal.sigtimedwait([signal.SIGUSR2], 0.002)
    finally:
        os._exit(0)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)


def step():
    assert sorted([str(i) for i in range(200)], key=int)[-1] == "199"


def check():
    # Every kind of signal goes on coming: nothing left it blocked or put its handler away.
    deadline = time.monotonic() + 10
    for name in counts:
        before = counts[name]
        while counts[name] == before:
            step()
            assert time.monotonic() < deadline, "no more %s" % name
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.setitimer(signal.ITIMER_PROF, 0)
