class Base(object):
    count = 0
    def __init__(self, v):
        self.v = v
        self.pairs = [(v, -v)]
    @property
    def twice(self):
        return self.v * 2.5
    @classmethod
    def make(cls, n):
        return [cls(i) for i in range(n)]
class Slotted(Base):
    __slots__ = ("extra",)
    def __init__(self, v):
        super().__init__(v)
        self.extra = {"v": v}
class Meta(type):
    def __new__(m, name, bases, ns):
        ns["made"] = [name]
        return type.__new__(m, name, bases, ns)
keep(Base.make(300))
keep(Slotted.make(300))
keep([Meta("K%d" % i, (Base,), {"x": i * 1000}) for i in range(40)])
keep([b.twice for b in Base.make(50)])
import collections
Point = collections.namedtuple("Point", "x y z")
keep([Point(i, i * 2.0, str(i)) for i in range(200)])
