# Sub-interpreters that allocate in threads of their own, beside the main one.
import os
import threading

try:
    import _interpreters as interpreters  # 3.13
except ImportError:
    try:
        import _xxsubinterpreters as interpreters  # 3.8
    except ImportError:
        interpreters = None
        import _testcapi

WORK = """
import os, time
right, rounds = True, 0
while not os.path.exists(%r):
    items = {str(i): [i] * 4 for i in range(300)}
    right = right and sum(item[0] for item in items.values()) == 44850
    rounds += 1
    if rounds == 1:
        os.write(%d, b"r")
    if rounds %% 20 == 0:
        time.sleep(0.001)
os.write(%d, b"y" if right and rounds else b"n")
"""

stop = "/tmp/heaptap-stop-%d" % os.getpid()
results, tell = os.pipe()


def work(number):
    source = WORK % (stop, tell, tell)
    if interpreters is None:
        _testcapi.run_in_subinterp(source)
        return
    try:
        interpreter = interpreters.create("legacy")
    except TypeError:  # before 3.13
        interpreter = interpreters.create()
    try:
        interpreters.run_string(interpreter, source)
    finally:
        interpreters.destroy(interpreter)


running = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(3)]
for thread in running:
    thread.start()
ready = b""
while len(ready) < len(running):
    ready += os.read(results, 1)


def step():
    assert len([str(i) for i in range(200)]) == 200


def check():
    assert all(thread.is_alive() for thread in running)
    open(stop, "w").close()
    for thread in running:
        thread.join(30)
    os.unlink(stop)
    assert os.read(results, 10) == b"yyy"
