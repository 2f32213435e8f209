# The garbage collector runs nearly all the time, over cycles with finalisers.
import gc

finalised = made = 0


class Cycle(object):
    def __init__(self):
        self.me, self.data = self, [bytes(100)]

    def __del__(self):
        global finalised
        finalised += 1


def step():
    global made
    for _ in range(200):
        Cycle()
        made += 1
    gc.collect()


def check():
    gc.collect()
    assert made == finalised > 0, (made, finalised)
    assert not gc.garbage
