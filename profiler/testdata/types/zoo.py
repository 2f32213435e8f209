# Run by the test of types in the target, after heaptap has attached: it makes objects of all kinds and tells what is
# where. Written for 3.6 and everything later, in ASCII.
import array, asyncio, collections, ctypes, datetime, decimal, enum, fractions, functools, gc, io, itertools, json
import operator, os, pickle, random, re, signal, struct, sys, threading, types, uuid, weakref
from xml.etree import ElementTree

gc.disable()
zoo = []
keep = zoo.append


def several(make, n=7):
    for i in range(n):
        keep(make(i))


class Plain(object):
    def __init__(self, i):
        self.a, self.b, self.c = i, str(i), [i]

    def method(self):
        return self

    @property
    def prop(self):
        return 1

    @classmethod
    def make(cls, i):
        return cls(i)

    @staticmethod
    def static(i):
        return i


class Slotted(object):
    __slots__ = ("x", "y")

    def __init__(self, i):
        self.x, self.y = i, float(i)


class SlottedWeak(object):
    __slots__ = ("x", "__weakref__")


class SlottedDict(Slotted):
    __slots__ = ("__dict__",)


class Empty(object):
    pass


class Wide(object):
    def __init__(self, i):
        for k in range(40):
            setattr(self, "attribute_%d" % k, k + 1000)


class Deep(Plain):
    class Inner(object):
        class Innermost(object):
            pass


def local():
    class Local(object):
        pass
    return Local


class Meta(type):
    def __new__(mcs, name, bases, space, **keywords):
        return type.__new__(mcs, name, bases, space)


class MetaMeta(type):
    pass


class Meta2(type, metaclass=MetaMeta):
    pass


class WithMeta(metaclass=Meta):
    pass


class WithMeta2(Plain, metaclass=Meta2):
    pass


class Renamed(object):
    pass


Renamed.__qualname__ = "Umbenannt.Gr\u00f6\u00dfe"
Renamed.__module__ = "ein.modul"


class NoModule(object):
    pass


NoModule.__module__ = 5  # no str: the qualified name alone

Made = type("Made", (Plain,), {"extra": 1})
Unicode = type("\u00dcberklasse", (object,), {})


class List(list): pass
class Dict(dict): pass
class Set(set): pass
class Frozen(frozenset): pass
class Tuple(tuple): pass
class SlimTuple(tuple): __slots__ = ()
class Str(str): pass
class Bytes(bytes): pass
class ByteArray(bytearray): pass
class Int(int): pass
class Float(float): pass
class Complex(complex): pass
class Error(Exception): pass
class SlottedList(list): __slots__ = ("z",)
class SlottedInt(int): __slots__ = ()
class Ordered(collections.OrderedDict): pass
class Deque(collections.deque): pass
class Array(array.array): pass
class Default(collections.defaultdict): pass
class DateTime(datetime.datetime): pass
class Decimal(decimal.Decimal): pass
class Bytesio(io.BytesIO): pass
class Stringio(io.StringIO): pass
class Simple(types.SimpleNamespace): pass
class Module(types.ModuleType): pass
class Mixed(Plain, dict): pass

for c in (Plain, Slotted, Wide, Made, Deep):
    several(c)
for c in (Empty, SlottedWeak, Deep.Inner, Deep.Inner.Innermost, WithMeta, Renamed, NoModule, Unicode, local()):
    several(lambda i: c())
several(WithMeta2), several(SlottedDict), several(Mixed)
for i in range(5):
    e = Empty()
    e.__dict__["odd"] = i  # the dict of an instance exists
    keep(e)
    p = Plain(i)
    p.__dict__
    keep(p)
    p = Plain(i)
    for k in range(60):
        setattr(p, "more_%d_%d" % (i, k), k)
    del p.a
    keep(p)
    p = Plain(i)
    p.__class__ = Deep
    keep(p)
    keep(weakref.ref(p)), keep(weakref.proxy(p))
several(lambda i: Meta("Dynamic%d" % i, (), {"__slots__": ("a", "b", "c")[:i % 4]}))
several(lambda i: local())
several(lambda i: types.new_class("New%d" % i, (Plain,)))

# Numbers and text.
several(lambda i: 10 ** (i * 5)), several(lambda i: -7 ** (i * 9)), several(lambda i: i / 7.0), several(lambda i: complex(i, i))
several(lambda i: (1 << 30 * i) - 1), several(lambda i: 1 << 4000), several(lambda i: (1 << 300) - (1 << 299) - (1 << 298))
several(Int), several(Float), several(Complex), several(lambda i: SlottedInt(10 ** 30)), several(lambda i: Int(1 << 500))
several(lambda i: "a" * i * 20), several(lambda i: "\u00e4" * i * 20), several(lambda i: "\u0416" * i * 20), several(lambda i: "\U0001f40d" * i * 20)
several(lambda i: Str("s" * i)), several(lambda i: Str("\u0416" * i * 300)), several(lambda i: sys.intern("interned %d" % i))
several(lambda i: "\u0416%d" % i)
for s in zoo[-7:]:
    s.encode("utf-8")
    ctypes.pythonapi.PyUnicode_AsUTF8  # exists
    f = ctypes.pythonapi.PyUnicode_AsUTF8
    f.argtypes, f.restype = [ctypes.py_object], ctypes.c_char_p
    f(s)
several(lambda i: b"b" * i * 33), several(lambda i: Bytes(b"b" * i * 100)), several(lambda i: os.urandom(100))

# Containers.
several(lambda i: list(range(i * i))), several(lambda i: List(range(i * 3))), several(lambda i: SlottedList([i])), several(lambda i: [])
several(lambda i: tuple(range(i * 2))), several(lambda i: Tuple(range(i))), several(lambda i: SlimTuple(range(i)))
several(lambda i: {k: k for k in range(i * 9)}), several(lambda i: {str(k): k for k in range(i * 9)}), several(lambda i: Dict(a=i, b=2))
several(lambda i: set(range(i * 9))), several(lambda i: frozenset(range(i * 9))), several(lambda i: Set(range(i * 30)))
several(lambda i: Frozen(range(i * 9))), several(lambda i: bytearray(i * 99)), several(lambda i: ByteArray(i * 99))
several(lambda i: collections.deque(range(i * 50))), several(lambda i: Deque(range(i * 50), 100))
several(lambda i: collections.OrderedDict((k, k) for k in range(i * 20))), several(lambda i: Ordered(a=1, b=i))
several(lambda i: collections.defaultdict(list, {i: []})), several(lambda i: Default(int)), several(lambda i: collections.Counter("abc" * i))
several(lambda i: collections.ChainMap({}, {i: i})), several(lambda i: collections.UserDict(a=i)), several(lambda i: array.array("d", [0.5] * i * 20))
several(lambda i: Array("b", b"x" * i)), several(lambda i: types.MappingProxyType({i: i})), several(lambda i: types.SimpleNamespace(a=i))
several(lambda i: Simple(a=i)), several(lambda i: range(i)), several(lambda i: slice(i)), several(lambda i: memoryview(bytearray(100 + i)))
several(lambda i: {}.keys()), several(lambda i: {i: i}.items()), several(lambda i: {i: i}.values())
ba = bytearray(500)
keep(ba), keep(memoryview(ba)), keep(memoryview(ba)[3:]), keep((ctypes.c_char * 500).from_buffer(ba))
aliased = array.array("q", range(100))
keep(aliased), keep(memoryview(aliased)), keep((ctypes.c_int64 * 100).from_buffer(aliased))

# What code is made of.
def closure(i):
    cell = [i]

    def inner(a=i, *, b=2):
        """doc"""
        return cell, a, b
    return inner


several(closure), several(lambda i: (lambda: i)), several(lambda i: compile("x = %d\ndef f(): return x" % i, "<made>", "exec"))
several(lambda i: Plain(i).method), several(lambda i: [].append), several(lambda i: functools.partial(max, i)), several(lambda i: property(closure(i)))
several(lambda i: staticmethod(closure(i))), several(lambda i: classmethod(closure(i))), several(lambda i: super(Deep, Deep(i)))
several(lambda i: types.ModuleType("module%d" % i)), several(lambda i: Module("module%d" % i)), several(lambda i: operator.itemgetter(i, 2))
several(lambda i: operator.attrgetter("a.b")), several(lambda i: functools.lru_cache(maxsize=10)(closure(i)))
for f in zoo[-7:]:
    for k in range(12):
        f(k)
several(lambda i: functools.singledispatch(closure(i)))


def generator(n):
    a, b, c = n, [n], {n: n}
    while True:
        yield a, b, c


async def coroutine(n):
    a, b = n, [n]
    await asyncio.sleep(n)
    return a, b


async def agenerator(n):
    yield n


several(generator), several(agenerator), several(lambda i: (x for x in range(i)))
for g in zoo[-21:-14]:
    next(g)
several(coroutine)
for c in zoo[-7:]:
    c.close()
several(lambda i: generator(i).__iter__()), several(lambda i: sys._getframe())


def failing(n):
    local = [n]
    if n:
        return failing(n - 1)
    raise Error("failed", local)


def failed(n):
    try:
        failing(n)
    except Error as e:
        return e


several(failed), several(lambda i: failed(i).__traceback__), several(lambda i: KeyError(i)), several(lambda i: OSError(i, "text", "name"))
several(lambda i: UnicodeDecodeError("utf-8", b"x", 0, 1, "why")), several(lambda i: StopIteration(i)), several(lambda i: SystemExit(i))
several(lambda i: ImportError("x", name="y"))

# The library, in C and in Python.
several(lambda i: datetime.datetime(2026, 1, 1 + i)), several(lambda i: datetime.datetime.now(datetime.timezone.utc)), several(DateTime.fromtimestamp)
several(lambda i: datetime.date(2026, 1, 1 + i)), several(lambda i: datetime.time(i)), several(lambda i: datetime.timedelta(i))
several(lambda i: datetime.time(i, tzinfo=datetime.timezone.utc)), several(lambda i: datetime.timezone(datetime.timedelta(hours=i)))
several(decimal.Decimal), several(Decimal), several(lambda i: decimal.Decimal("1." + "7" * (100 * i + 1))), several(lambda i: decimal.Context(prec=i + 1))
several(lambda i: fractions.Fraction(i, 7)), several(lambda i: re.compile("a{%d}(b|c)*" % i)), several(lambda i: re.match("(.)(.)", "ab%d" % i))
several(lambda i: io.BytesIO(b"x" * i * 100)), several(lambda i: io.StringIO("x" * i * 100)), several(lambda i: Bytesio()), several(lambda i: Stringio("text"))
for s in zoo[-7:] + zoo[-21:-14]:
    s.seek(0, 2), s.write("more"), s.seek(1)
several(lambda i: open(os.devnull, "rb")), several(lambda i: open(os.devnull, "w")), several(lambda i: open(os.devnull, "r+b", buffering=0))
several(lambda i: struct.Struct("<%dIq" % i)), several(lambda i: random.Random(i)), several(lambda i: uuid.uuid4())
several(lambda i: itertools.chain([i], [2])), several(lambda i: itertools.product([1, 2], [i])), several(lambda i: itertools.permutations([1, 2, i]))
several(lambda i: itertools.count(i)), several(lambda i: itertools.cycle([i])), several(lambda i: itertools.tee([i])), several(lambda i: itertools.groupby([i]))
several(lambda i: iter([i])), several(lambda i: iter({i: i})), several(lambda i: iter((i,))), several(lambda i: iter("ab")), several(lambda i: map(str, [i]))
several(lambda i: zip([i], [2])), several(lambda i: enumerate([i])), several(lambda i: reversed([i])), several(lambda i: iter(range(i)))
several(lambda i: threading.Lock()), several(lambda i: threading.RLock()), several(lambda i: threading.Event()), several(lambda i: threading.local())
several(lambda i: weakref.WeakValueDictionary()), several(lambda i: weakref.WeakKeyDictionary()), several(lambda i: weakref.WeakSet())
several(lambda i: json.JSONDecoder()), several(lambda i: pickle.Pickler(io.BytesIO())), several(lambda i: pickle.Unpickler(io.BytesIO(b"x")))
for p in zoo[-14:-7]:
    p.dump([Plain(1), [2], "x"])
several(lambda i: ElementTree.fromstring("<a x='1'><b>t</b><c/>%s</a>" % ("<d/>" * i * 5)))


class Color(enum.Enum):
    RED = 1
    GREEN = 2


class Flags(enum.IntFlag):
    A = 1
    B = 2


keep(Color), keep(Flags), keep(Flags.A | Flags.B)
Named = collections.namedtuple("Named", "a b c")
several(lambda i: Named(i, 2, 3)), several(lambda i: os.stat("/")), several(lambda i: sys.version_info)
if sys.version_info >= (3, 7):
    import contextvars, dataclasses

    @dataclasses.dataclass
    class Data:
        a: int
        b: list = dataclasses.field(default_factory=list)

    several(Data), several(lambda i: contextvars.copy_context()), several(lambda i: contextvars.ContextVar("v%d" % i))
if sys.version_info >= (3, 10):
    exec("several(lambda i: list[int]), several(lambda i: int | str)")
if sys.version_info >= (3, 11):
    several(lambda i: ExceptionGroup("g", [ValueError(i)]))
if sys.version_info >= (3, 15):
    exec("several(lambda i: frozendict(a=i, b=2))")


class Structure(ctypes.Structure):
    _fields_ = [("a", ctypes.c_int), ("b", ctypes.c_double), ("c", ctypes.c_char * 100)]


several(lambda i: Structure()), several(ctypes.c_int), several(lambda i: (ctypes.c_int * 50)()), several(lambda i: ctypes.pointer(ctypes.c_int(i)))
several(lambda i: ctypes.create_string_buffer(i * 100 + 1)), several(lambda i: ctypes.CFUNCTYPE(None)(lambda: None)), several(lambda i: ctypes.py_object([]))
loop = asyncio.new_event_loop()
several(lambda i: asyncio.Future(loop=loop)), several(lambda i: loop.create_task(coroutine(i)))
try:
    import numpy
    several(lambda i: numpy.zeros((i, 50))), several(lambda i: numpy.float64(i)), several(lambda i: numpy.dtype("i4,f8"))
    several(lambda i: numpy.arange(100)[i:])
except ImportError:
    pass

# Objects on free lists, and text that looks like an object.
for n in range(100):
    floats, tuples = [k / 3.0 for k in range(150)], [(k,) * (k % 25) for k in range(150)]
    lists, dicts, sets = [[k] for k in range(150)], [{k: k} for k in range(150)], [{k} for k in range(150)]
    gens, slices, methods = [generator(k) for k in range(50)], [slice(k) for k in range(50)], [Plain.make for k in range(300)]
    list(map(next, gens))
    del floats, tuples, lists, dicts, sets, gens, slices, methods
forged = struct.pack("qqqq", 1, id(float), 0, 0)[:24]
keep(bytearray(forged)[:-1] + b"\0")  # the buffer of a bytearray, as large as a float and with its header
several(lambda i: bytearray(struct.pack("qqq", 1, id(list), 0)) * 3)
several(lambda i: [1, float] * 30)

def hidden_type(address):
    if address < 1 << 20 or address >= 1 << 47 or address % 8:
        return None
    with open("/proc/self/mem", "rb", 0) as memory:
        try:
            memory.seek(address + 8)
            meta = struct.unpack("Q", memory.read(8))[0]
        except (OSError, struct.error):
            return None
    return ctypes.cast(address, ctypes.py_object).value if meta == id(type) else None


listed = None

# Types of whose objects sys.getsizeof() counts blocks that buffers() does not know.
elsewhere = (type, collections.OrderedDict, collections.deque, io.StringIO, io.BytesIO, io.BufferedReader, io.BufferedWriter,
             io.BufferedRandom, struct.Struct, pickle.Pickler, pickle.Unpickler, ElementTree.Element, itertools.product,
             itertools.permutations, types.CodeType, decimal.Decimal, datetime.datetime, datetime.time, ctypes.Structure, ctypes.Array)


def name(t):
    module, qualname = type.__dict__["__module__"].__get__(t), type.__dict__["__qualname__"].__get__(t)
    return qualname if module == "builtins" or not isinstance(module, str) else module + "." + qualname


def word(address):
    return ctypes.c_uint64.from_address(address).value


def buffers(o):
    """The addresses of blocks that an object has for itself, and what for."""
    t = type(o)
    if isinstance(o, list):
        return [(word(id(o) + 24), "items")]
    if isinstance(o, (set, frozenset)):
        return [(word(id(o) + 40), "table")]
    if isinstance(o, dict) or t.__name__ == "frozendict":
        keys, values = word(id(o) + 32), word(id(o) + 40)
        return [] if values else [(keys, "keys")]
    if isinstance(o, bytearray) and sys.version_info < (3, 15):
        return [(word(id(o) + 32), "buffer")]
    if isinstance(o, array.array):
        return [(o.buffer_info()[0], "items")]
    if isinstance(o, collections.deque):
        return [(word(id(o) + 24), "blocks"), (word(id(o) + 32), "blocks")]
    return []


def enumerate_all():
    global listed
    found = {}
    todo = gc.get_objects() + [zoo]
    skip = {id(found), id(todo)}
    while todo:
        o = todo.pop()
        if id(o) in found or id(o) in skip:
            continue
        found[id(o)] = o
        todo.extend(gc.get_referents(o))
    stop, pid, number = os.kill, os.getpid(), int(signal.SIGSTOP)
    listed = found
    stop(pid, number)  # the test looks now


def answer(line):
    request = json.loads(line)
    if request != "listed":  # words, of which one is the address of a type that nothing else refers to
        return json.dumps([name(t) for t in map(hidden_type, request) if t is not None])
    names, number, objects, owned = [], {}, [], []
    for address, o in listed.items():
        t = type(o)
        if t not in number:
            number[t] = len(names)
            names.append(name(t))
        try:
            odd = isinstance(o, elsewhere) or t.__name__ == "StgDict" or name(t).startswith("numpy.")
            size = 0 if odd else sys.getsizeof(o)
        except Exception:
            size = 0
        if isinstance(o, str) and (type(o) is not str or max(o + " ") > "~"):
            size = 0  # text or its UTF-8 are elsewhere
        theirs = buffers(o)
        if isinstance(o, (dict, bytearray)) and not theirs:
            size = 0
        objects.append([address, number[t], size])
        owned.extend([a, number[t], role, address] for a, role in theirs)
    known = {id(t): name(t) for t in listed.values() if issubclass(type(t), type)}
    known.update((id(t), name(t)) for t in number)
    return json.dumps({"names": names, "objects": objects, "owned": owned, "types": known})
