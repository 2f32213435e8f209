"""A service's request: JSON in, a row of a database, a digest, compressed JSON out."""
import hashlib
import json
import sqlite3
import zlib

import steady  # noqa: F401


def prepare(size):
    return size, json.dumps([{"id": i, "name": "item %d" % i, "tags": ["a", str(i)]} for i in range(20)])


def run(inputs):
    size, text = inputs
    connection = sqlite3.connect(":memory:")
    connection.execute("create table seen (id integer primary key, digest text)")
    total = 0
    for i in range(size):
        items = json.loads(text)
        items[i % 20]["name"] = "item changed %d" % i
        body = json.dumps(items).encode()
        connection.execute("insert into seen (digest) values (?)", (hashlib.sha256(body).hexdigest(),))
        total += len(zlib.compress(body, 1)) + len(connection.execute(
            "select digest from seen where id = ?", (i + 1,)).fetchone()[0])
        if i % 500 == 499:
            connection.execute("delete from seen where id < ?", (i - 100,))
    connection.close()
    return total, None
