# A server with a thread for each connection, and clients.
import socket
import socketserver
import threading


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(serve(line))


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64


ADDRESS = "\0heaptap-leaks-%d" % os.getpid()
server = Server(ADDRESS, Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()


def client(requests):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(ADDRESS)
        f = s.makefile("rwb")
        for i in range(requests):
            f.write(b"request %d\n" % i)
            f.flush()
            assert f.readline().startswith(b"served "), "no answer"
        f.close()


def load(requests):
    """Serves so many requests, over several connections at once."""
    with LOCK:
        for i in range(requests // 20):
            client(20)
    return served


LOCK = threading.Lock()
