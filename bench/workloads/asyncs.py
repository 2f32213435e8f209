"""asyncio: tasks, queues, futures and timers' worth of callbacks on one event loop."""
import asyncio


async def producer(numbers, channel):
    for number in numbers:
        await channel.put({"number": number, "label": "message %d" % number})
    await channel.put(None)


async def consumer(channel):
    total = 0
    while True:
        message = await channel.get()
        if message is None:
            return total
        total += message["number"] + len(message["label"])


async def leaf(number):
    await asyncio.sleep(0)
    return number * 2


async def main(size):
    total = 0
    for start in range(0, size, 100):
        channel = asyncio.Queue(maxsize=10)
        feeding = asyncio.ensure_future(producer(range(start, start + 100), channel))
        total += await consumer(channel)
        await feeding
        total += sum(await asyncio.gather(*[leaf(number) for number in range(start, start + 50)]))
    return total


def prepare(size):
    return size


def run(size):
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(main(size)), None
    finally:
        loop.close()
