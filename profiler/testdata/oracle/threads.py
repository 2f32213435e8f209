import threading
lock = threading.Lock()
shared = []
def work(n):
    mine = []
    for i in range(300):
        mine.append({"t": n, "i": i})
        if i % 50 == 0:
            with lock:
                shared.append((n, [i]))
    with lock:
        shared.append(mine)
def nested(n):
    t = threading.Thread(target=work, args=(n,))
    t.start()
    work(n + 100)
    t.join()
threads = [threading.Thread(target=nested, args=(i,)) for i in range(6)]
for t in threads:
    t.start()
for t in threads:
    t.join()
keep(shared)
import queue
q = queue.Queue()
def feed():
    for i in range(200):
        q.put(bytearray(i))
t = threading.Thread(target=feed)
t.start()
keep([q.get() for _ in range(200)])
t.join()
