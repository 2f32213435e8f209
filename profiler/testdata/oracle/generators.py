import itertools
def count(n):
    for i in range(n):
        yield [i]
def chain(n):
    yield from count(n)
    yield from (x * 2 for x in range(n))
def walk(depth):
    if depth:
        for x in walk(depth - 1):
            yield (x, depth)
    else:
        for i in range(20):
            yield {"i": i}
keep(list(chain(200)))
keep(list(walk(12)))
suspended = []
for i in range(50):
    g = chain(10)
    next(g)
    suspended.append(g)
keep(suspended)
keep(list(itertools.product("abc", repeat=4)))
gens = [count(5) for _ in range(30)]
for step in range(5):
    keep([next(g) for g in gens])
