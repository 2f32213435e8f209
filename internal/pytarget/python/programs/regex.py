# Stuck in the regular expression engine, in C and holding the GIL, until a signal's handler raises.
import re
import signal
import pytarget


class Enough(Exception):
    pass


def stop(number, frame):
    raise Enough


outcome = None


def enter():
    pytarget.defer(stuck)


def stuck():
    global outcome
    try:
        outcome = re.match("(a|aa)*b", "a" * 200)
    except Enough:
        outcome = "stopped"


signal.signal(signal.SIGUSR1, stop)


def check():
    assert outcome == "stopped", outcome
