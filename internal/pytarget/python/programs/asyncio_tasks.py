# An event loop with tasks that allocate, wait for each other and time out.
import asyncio

loop = asyncio.new_event_loop()
rounds = 0


async def leaf(number):
    await asyncio.sleep(0)
    return {str(number): [number] * 10}


async def work():
    results = await asyncio.gather(*[leaf(i) for i in range(50)])
    assert sum(len(result) for result in results) == 50
    try:
        await asyncio.wait_for(asyncio.sleep(60), 0.001)
        raise AssertionError("sleep(60) ended")
    except asyncio.TimeoutError:
        pass


def step():
    global rounds
    loop.run_until_complete(work())
    rounds += 1


def check():
    assert rounds > 0
