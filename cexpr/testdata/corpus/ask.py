"""Asks gdb for each expression of expressions.txt: gdb -nx -batch -x ask.py PROGRAM, with the file on CORPUS_IN."""
import os

import gdb

for command in ("set confirm off", "set pagination off", "set width 0", "set startup-with-shell off",
                "set debuginfod enabled off", "break harness_ready", "run </dev/null >/dev/null"):
    try:
        gdb.execute(command, to_string=True)
    except gdb.error as error:
        print("#", command, error)
with open(os.environ["CORPUS_IN"], encoding="utf-8") as lines, \
        open(os.environ["CORPUS_OUT"], "w", encoding="utf-8") as out:
    for line in lines:
        line = line.rstrip("\n")
        if not line or line.startswith("#"):
            continue
        try:
            answer = gdb.execute("print " + line, to_string=True).rstrip("\n")
        except gdb.error as error:
            answer = "error: " + str(error).split("\n")[0]
        out.write(line + "\n" + answer + "\n\n")
gdb.execute("kill")
