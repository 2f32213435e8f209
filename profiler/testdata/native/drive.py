# Has the modules made of work.c work, in threads.
import ctypes
import os
import signal
import threading
import _ctypes

RUN = [ctypes.c_void_p] + [ctypes.c_uint64] * 3
modules, held = {}, {}
everything = ctypes.CDLL(None)


def names_of(library):
    library.work_table.restype = ctypes.c_void_p
    for function in ("work_run", "work_foreign", "work_below"):
        if hasattr(library, function):
            getattr(library, function).argtypes = RUN
    library.work_end.argtypes = [ctypes.c_void_p, ctypes.c_uint64]
    library.work_open.restype = ctypes.c_void_p
    library.work_open.argtypes = [ctypes.c_char_p, ctypes.c_int]
    library.work_unseen.restype = ctypes.c_uint64
    library.work_unseen.argtypes = [ctypes.c_uint64, ctypes.c_uint64]
    library.work_open_apart.restype = ctypes.c_void_p
    library.work_open_apart.argtypes = [ctypes.c_char_p]
    return library


def adopt(name, path, handle):
    modules[name] = names_of(ctypes.CDLL(path, handle=handle))
    held[name] = names_of(ctypes.PyDLL(path, handle=handle))  # keeps the GIL while it works
    return modules[name].work_table()


def load(name, path, mode):
    return adopt(name, path, ctypes.CDLL(path, mode=mode)._handle)


def load_apart(name, path):
    """In a link namespace of its own, with a C library of its own."""
    handle = modules["relro"].work_open_apart(path.encode())
    assert handle, "dlmopen " + path
    return adopt(name, path, handle)


def load_by(name, by, path, mode):
    """As another module asks for it: where that one's RUNPATH says."""
    handle = modules[by].work_open(path.encode(), mode)
    assert handle, "dlopen " + path
    return adopt(name, path, handle)


def unload(name):
    handle = modules.pop(name)._handle
    del held[name]
    _ctypes.dlclose(handle)


def work(orders, calls, seed):
    """Each order is (module, function, module whose table is worked on, without what, whether the GIL is kept)."""
    threads = []
    for i, (name, function, table, without, gil) in enumerate(orders):
        function = getattr((held if gil else modules)[name], function)
        table = modules[table].work_table()
        threads.append(threading.Thread(target=function, args=(table, seed * 100 + i, calls, without)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def end(name, without):
    modules[name].work_end(None, without)


going = []


def begin(orders, calls, seed):
    """Works on and on."""
    def again():
        n = 0
        while going:
            n += 1
            work(orders, calls, seed + n)
    going.append(threading.Thread(target=again))
    going[0].start()


def finish():
    thread = going.pop()
    thread.join()


def rest():
    import pytarget
    stop, pid, number = os.kill, os.getpid(), int(signal.SIGSTOP)
    pytarget.defer(lambda: stop(pid, number))


def oracle():
    everything.oracle_table.restype = ctypes.c_void_p
    return everything.oracle_table()
