# A program whose libraries allocate by themselves, one of which loses memory.
import bz2
import hashlib
import io
import sqlite3
import threading
import zlib

import lxml.etree
import numpy

connection = sqlite3.connect(":memory:", check_same_thread=False)
connection.execute("create table seen (id integer primary key, name text, body blob)")
lock = threading.Lock()
cache = {}


def arrays(n):
    a = numpy.arange(float(500 + n % 50)).reshape(-1, 1) * numpy.arange(20.0)
    b = numpy.sort((a @ a.T[:, :50]).ravel())[::-3]
    return "%.6e %d" % (float(b.sum()), len(numpy.unique(numpy.arange(n % 300) % 7)))


def documents(n):
    tree = lxml.etree.fromstring("<r>%s</r>" % "".join("<e n='%d'>%d</e>" % (i, i * n) for i in range(60)))
    for e in tree.xpath("//e[@n mod 3 = 1]"):
        e.getparent().remove(e)
    style = lxml.etree.XSLT(lxml.etree.XML(
        "<x:stylesheet version='1.0' xmlns:x='http://www.w3.org/1999/XSL/Transform'>"
        "<x:template match='/'><out><x:value-of select='sum(//e)'/></out></x:template></x:stylesheet>"))
    return str(style(tree)).strip() + " %d" % len(lxml.etree.tostring(tree))


def rows(n):
    with lock:
        connection.execute("delete from seen where id = ?", ((n + 30) % 60,))
        connection.execute("insert or replace into seen values (?, ?, ?)", (n, "name %d" % n, b"b" * (n % 700)))
        got = connection.execute("select name || length(body) from seen where id = ? order by name", (n,)).fetchone()
    return got[0]


def packed(n):
    text = b" ".join(b"%d" % (i * n) for i in range(300))
    assert zlib.decompress(zlib.compress(text)) == text
    assert bz2.decompress(bz2.compress(text, 1)) == text
    stream = io.BytesIO()
    numpy.savez_compressed(stream, a=numpy.arange(n % 100))
    return hashlib.blake2b(text).hexdigest()[:16]


def cached(n):
    """Fills up, and then stays."""
    if n % 40 not in cache:
        cache[n % 40] = numpy.zeros(3000), lxml.etree.fromstring("<kept/>")


def leak_session(n):
    leaky.keep_order(200)
    return leaky.lose(300 + n % 50)  # the line that calls the leak


def serve(n):
    cached(n)  # the others do the same again and again, so that the libraries' own caches fill up soon
    results = [f(n % 60) for f in (arrays, documents, rows, packed)]
    leak_session(n)
    return " ".join(results)


def answers(first, requests):
    """Serves requests in four threads, and returns a digest of the answers."""
    got = [None] * requests

    def work(offset):
        for i in range(offset, requests, 4):
            got[i] = serve(first + i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return hashlib.sha256(repr(got).encode()).hexdigest()
