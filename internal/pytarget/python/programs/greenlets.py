# Greenlets that switch between each other in the middle of their work.
import greenlet

hub = greenlet.getcurrent()
switches = 0


def work(number):
    total = 0
    while True:
        items = [str(i) for i in range(number, number + 50)]
        hub.switch(total)
        assert items == [str(i) for i in range(number, number + 50)]
        total += 1


def deep(number, left=20):
    return work(number) if left == 0 else deep(number, left - 1)


running = [greenlet.greenlet(deep) for _ in range(20)]


def step():
    global switches
    totals = [running[i].switch(i) for i in range(20)]
    assert totals == [switches] * 20, totals
    switches += 1


def check():
    assert switches > 0 and not any(item.dead for item in running)
