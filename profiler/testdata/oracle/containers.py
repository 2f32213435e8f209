import collections
def build(n):
    out = {}
    for i in range(n):
        out["key%d" % i] = [i, (i, str(i)), {i, i + 1}, frozenset((i,)), bytearray(i)]
    return out
keep(build(500))
d = collections.deque(range(3000), maxlen=2500)
keep(d)
od = collections.OrderedDict((i, [i]) for i in range(400))
for i in range(0, 400, 3):
    del od[i]
keep(od)
c = collections.Counter("the quick brown fox jumps over the lazy dog" * 10)
keep(c)
l = []
for i in range(5000):
    l.append(float(i))
    if i % 3 == 0:
        l.pop(0)
keep(l)
keep(sorted([x * 1.5 for x in l], key=lambda v: -v))
