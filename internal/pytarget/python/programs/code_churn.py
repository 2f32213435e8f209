# Code objects made by exec() and thrown away, so that their addresses are used again by others.
rounds = 0


def step():
    global rounds
    rounds += 1
    names = {}
    source = "\n" * (rounds % 50) + "def f%d(n):\n    return [str(i) for i in range(n)] + ['%d']\n" % (rounds, rounds)
    exec(compile(source, "made %d" % (rounds % 97), "exec"), names)
    assert names["f%d" % rounds](20)[-1] == str(rounds)


def check():
    assert rounds > 0
