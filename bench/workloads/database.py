"""SQLite in memory: a table filled, joined with itself, updated and dropped."""
import sqlite3

import steady  # noqa: F401


def prepare(size):
    return size


def run(size):
    total = 0
    connection = sqlite3.connect(":memory:")
    for i in range(size):
        connection.execute("create table t%d (id integer primary key, name text, parent integer)" % i)
        connection.executemany("insert into t%d values (?, ?, ?)" % i, [(n, "name %d" % n, n // 3) for n in range(200)])
        for name, parent in connection.execute("select a.name, b.name from t%d a, t%d b where b.id = a.parent" % (i, i)):
            total += len(name) + len(parent)
        connection.execute("update t%d set name = name || id where id %% 2" % i)
        connection.execute("drop table t%d" % i)
    connection.close()
    return total, None
