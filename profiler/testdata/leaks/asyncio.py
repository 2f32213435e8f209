# An asyncio server in a thread of its own, and clients.
import asyncio
import socket
import threading

FOREVER_TASKS = []


async def handle(reader, writer):
    while True:
        line = await reader.readline()
        if not line:
            break
        leak_waiting(served)
        writer.write(serve(line))
        await writer.drain()
    writer.close()


async def leak_waiting_task(n):
    body = bytes(100 + n % 7)
    await loop_forever
    return body


def leak_waiting(n):
    """A task that nobody awaits and that waits for what never comes."""
    loop_forever.get_loop().create_task(leak_waiting_task(n))


ADDRESS = "\0heaptap-leaks-%d" % os.getpid()
ready = threading.Event()


async def main():
    global loop_forever
    loop_forever = asyncio.get_event_loop().create_future()
    await asyncio.start_unix_server(handle, ADDRESS)
    ready.set()
    await loop_forever


threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()
ready.wait()


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
    for i in range(requests // 20):
        client(20)
    return served
