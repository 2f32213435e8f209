# Run by gdb, attached to a process. For each line on descriptor 3 it lets the process go on and says on descriptor 4
# what it finds then: for each thread the registers by DWARF number, and the program counters of its frames. A line is
# "stepi N", "continue" (up to a signal at which gdb stops) or "stay".
import json
import os

import gdb

NAMES = "rax rdx rcx rbx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15 rip".split()


def stack():
    pcs = []
    frame = gdb.newest_frame()
    regs = [int(frame.read_register(name)) & (1 << 64) - 1 for name in NAMES]
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


def main():
    commands, answers = os.fdopen(3), os.fdopen(4, "w")
    for setting in ("pagination off", "backtrace past-main on", "debuginfod enabled off", "confirm off"):
        gdb.execute("set " + setting)
    gdb.execute("handle SIGPROF stop print nopass", to_string=True)
    gdb.execute("handle SIGUSR1 SIGUSR2 nostop noprint pass", to_string=True)
    for command in commands:
        command = command.strip()
        for thread in gdb.selected_inferior().threads():
            if thread.name == "computes":
                thread.switch()
                gdb.execute("set scheduler-locking on")
        if command != "stay":
            gdb.execute(command, to_string=True)
        threads = []
        chosen = gdb.selected_inferior().threads() if command == "stay" else [gdb.selected_thread()]
        for thread in chosen:
            thread.switch()
            threads.append(stack())
        answers.write(json.dumps(threads) + "\n")
        answers.flush()


main()
