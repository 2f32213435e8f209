# Run by gdb, attached to a process. For each line on descriptor 3 it lets the process go on and says on descriptor 4
# what it finds then. A thread is told as its registers, by DWARF number, and the program counters of its frames.
#
#   stay                  all threads, where they are
#   stepi N, continue     the thread that stops; the latter up to a signal at which gdb stops
#   allocators ADDRESS…   functions at whose entries "allocation" stops; says nothing
#   allocation N          lets N calls of these go by: the thread at the next one's entry, as its caller has called it,
#                         and then the result of that call
#   elsewhere             lets all calls go by up to the next signal at which gdb stops; says nothing
import json
import os

import gdb
import gdb.unwinder

NAMES = "rax rdx rcx rbx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15 rip".split()
MASK = (1 << 64) - 1


def register(frame, name):
    return int(frame.read_register(name)) & MASK


def word(address):
    return int.from_bytes(gdb.selected_inferior().read_memory(address, 8).tobytes(), "little")


def stack():
    pcs = []
    frame = gdb.newest_frame()
    regs = [register(frame, name) for name in NAMES]
    reason = 0
    while frame is not None:
        if frame.type() in (gdb.NORMAL_FRAME, gdb.SIGTRAMP_FRAME):  # not inlined functions, nor tail calls
            pcs.append(frame.pc())
        reason = frame.unwind_stop_reason()
        try:
            frame = frame.older()
        except gdb.error as e:
            reason = str(e)
            break
    return {"regs": regs, "pcs": pcs, "reason": str(reason)}


class Entries(gdb.unwinder.Unwinder):
    """At a function's first instruction, the caller's frame is known without anything being known of the function."""

    class Frame:
        def __init__(self, sp, pc):
            self.sp, self.pc = sp, pc

    def __init__(self):
        super().__init__("entries")
        self.addresses = set()
        self.breakpoints = []
        self.pass_by = 0
        self.waiting = False

    def __call__(self, pending):
        if register(pending, "rip") not in self.addresses:
            return None
        sp = register(pending, "rsp")
        caller = pending.create_unwind_info(self.Frame(pending.read_register("rsp"), pending.read_register("rip")))
        for name in NAMES:
            caller.add_saved_register(name, pending.read_register(name))
        pointer = pending.read_register("rsp").type
        caller.add_saved_register("rsp", gdb.Value(sp + 8).cast(pointer))
        caller.add_saved_register("rip", gdb.Value(word(sp)).cast(pending.read_register("rip").type))
        return caller


entries = Entries()


class Entry(gdb.Breakpoint):
    def __init__(self, address):
        super().__init__("*%#x" % address, internal=True)

    def stop(self):
        if entries.waiting:
            return False
        entries.pass_by -= 1
        return entries.pass_by < 0


class Return(gdb.Breakpoint):
    def __init__(self, address, sp):
        super().__init__("*%#x" % address, internal=True)
        self.thread = gdb.selected_thread().num
        self.sp = sp

    def stop(self):
        return register(gdb.newest_frame(), "rsp") == self.sp


def go_on(arrived):
    """Lets the process go on until it is somewhere; at signals it stops as well."""
    while True:
        gdb.execute("continue", to_string=True)
        if not gdb.selected_inferior().threads():
            raise gdb.error("the process has ended")
        frame = gdb.newest_frame()
        if arrived(frame):
            return frame


def elsewhere():
    for breakpoint in entries.breakpoints:
        breakpoint.enabled = False
    go_on(lambda frame: True)
    for breakpoint in entries.breakpoints:
        breakpoint.enabled = True
    return []


def allocation(pass_by):
    entries.pass_by = pass_by
    frame = go_on(lambda frame: frame.pc() in entries.addresses)
    sp = register(frame, "rsp")
    found = stack()
    back = Return(word(sp), sp + 8)
    entries.waiting = True
    frame = go_on(lambda frame: register(frame, "rsp") == sp + 8)
    entries.waiting = False
    back.delete()
    found["result"] = register(frame, "rax")
    return [found]


def answer(command):
    what, _, rest = command.partition(" ")
    if what == "allocators":
        gdb.unwinder.register_unwinder(None, entries)
        for address in rest.split():
            entries.addresses.add(int(address, 0))
            entries.breakpoints.append(Entry(int(address, 0)))
        return []
    if what == "elsewhere":
        return elsewhere()
    if what == "allocation":
        return allocation(int(rest))
    for thread in gdb.selected_inferior().threads():
        if thread.name == "computes":
            thread.switch()
            gdb.execute("set scheduler-locking on")
    if what != "stay":
        gdb.execute(command, to_string=True)
    found = []
    for thread in gdb.selected_inferior().threads() if what == "stay" else [gdb.selected_thread()]:
        thread.switch()
        found.append(stack())
    return found


def main():
    commands, answers = os.fdopen(3), os.fdopen(4, "w")
    for setting in ("pagination off", "backtrace past-main on", "debuginfod enabled off", "confirm off"):
        gdb.execute("set " + setting)
    gdb.execute("handle SIGPROF stop print nopass", to_string=True)
    gdb.execute("handle SIGUSR1 SIGUSR2 nostop noprint pass", to_string=True)
    for command in commands:
        answers.write(json.dumps(answer(command.strip())) + "\n")
        answers.flush()


main()
