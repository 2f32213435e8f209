"""A small shop that takes orders over HTTP, for `heaptap demo`.

It works, its tests would pass, and it runs out of memory after a few days. Most of what it keeps is meant to be kept
for a while: a catalogue that is read again now and then, rendered pages in a cache of fixed size, sessions that
expire, the last few response times. One place keeps things for ever.

Only the standard library, Python 3.6 and later.
"""

import collections
import functools
import http.server
import json
import os
import socketserver
import sys
import threading
import time


class Catalogue:
    """The goods. They are read again every other second, since prices change."""

    def __init__(self, size):
        self._size = size
        self._goods = {}
        self.refresh()

    def refresh(self):
        self._goods = {sku: self._read(sku) for sku in range(self._size)}

    def _read(self, sku):
        row = '{"sku": %d, "name": "Item %d", "price": %d, "tags": ["new", "sale", "t%d"], "text": "%s"}' % (
            sku, sku, 100 + sku % 900, sku % 7, "A fine thing to have. " * 12)
        return json.loads(row)

    def find(self, sku):
        return self._goods[sku % self._size]


class Sessions:
    """Who is visiting. A session ends after a second without a request."""

    LIFETIME = 1.0

    def __init__(self):
        self._lock = threading.Lock()
        self._seen = collections.OrderedDict()

    def touch(self, visitor):
        now = time.monotonic()
        with self._lock:
            basket = self._seen.pop(visitor, (now, []))[1]
            self._seen[visitor] = (now, basket)
            while self._seen:
                oldest = next(iter(self._seen))
                if now - self._seen[oldest][0] < self.LIFETIME:
                    break
                del self._seen[oldest]
        return basket


class Answer:
    """What was answered to an order."""

    __slots__ = ("status", "body", "at")

    def __init__(self, status, body, at):
        self.status = status
        self.body = body
        self.at = at


class AnswerCache:
    """Answers to orders by request id: a client that asks again gets the same answer and pays once."""

    def __init__(self):
        self._answers = {}

    def find(self, request_id):
        return self._answers.get(request_id)

    def keep(self, request_id, status, page):
        answer = Answer(status, bytes(page), time.time())
        self._answers[request_id] = answer
        return answer


class Shop:
    def __init__(self):
        self.catalogue = Catalogue(600)
        self.sessions = Sessions()
        self.answers = AnswerCache()
        self.times = collections.deque(maxlen=1000)
        self.render = functools.lru_cache(maxsize=128)(self._render)

    def _render(self, sku):
        item = self.catalogue.find(sku)
        return "<h1>{name}</h1><p>{text}</p><b>{price}</b>".format(**item).encode()

    def browse(self, visitor, sku):
        self.sessions.touch(visitor).append(sku)
        return self.render(sku)

    def order(self, visitor, request_id, lines):
        known = self.answers.find(request_id)
        if known is not None:
            return known
        self.sessions.touch(visitor).clear()
        page = self.receipt(request_id, lines)
        return self.answers.keep(request_id, 201, page)

    def receipt(self, request_id, lines):
        page = bytearray(("<h1>Order %s</h1>\n" % request_id).encode())
        total = 0
        for line in lines:
            item = self.catalogue.find(line["sku"])
            price = item["price"] * line["count"]
            total += price
            page += ("<tr><td>%s</td><td>%d</td><td>%d</td></tr>\n" % (item["text"], line["count"], price)).encode()
        page += ("<p>Total %d</p>\n" % total).encode()
        return page


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    shop = None

    def do_GET(self):
        started = time.monotonic()
        sku = int(self.path.rpartition("/")[2] or 0)
        self.reply(200, self.shop.browse(self.headers.get("X-Visitor", ""), sku))
        self.shop.times.append(time.monotonic() - started)

    def do_POST(self):
        started = time.monotonic()
        lines = json.loads(self.rfile.read(int(self.headers["Content-Length"])).decode())
        answer = self.shop.order(self.headers.get("X-Visitor", ""), self.headers["X-Request-Id"], lines)
        self.reply(answer.status, answer.body)
        self.shop.times.append(time.monotonic() - started)

    def reply(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True


def refresh_for_ever(shop):
    while True:
        time.sleep(2)
        shop.catalogue.refresh()


def end_with_parent():
    """Ends the shop when heaptap, which holds the other end of stdin, is gone in whatever way."""
    sys.stdin.buffer.read()
    os._exit(0)


def main():
    Handler.shop = Shop()
    for work in (functools.partial(refresh_for_ever, Handler.shop), end_with_parent):
        threading.Thread(target=work, daemon=True).start()
    server = Server(("127.0.0.1", 0), Handler)
    print("serving", server.server_address[1], os.getpid(), flush=True)
    server.serve_forever()


main()
