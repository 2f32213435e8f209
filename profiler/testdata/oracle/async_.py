import asyncio
results = []
async def leaf(i):
    await asyncio.sleep(0)
    return {"leaf": i, "data": [i] * 10}
async def branch(i):
    got = await asyncio.gather(*[leaf(i * 10 + k) for k in range(5)])
    results.append(got)
    return len(got)
async def producer(q):
    for i in range(100):
        await q.put([i])
    await q.put(None)
async def consumer(q):
    got = []
    while True:
        x = await q.get()
        if x is None:
            return got
        got.append(x)
async def main():
    await asyncio.gather(*[branch(i) for i in range(40)])
    q = asyncio.Queue(10)
    p = asyncio.ensure_future(producer(q))
    results.append(await consumer(q))
    await p
loop = asyncio.new_event_loop()
loop.run_until_complete(main())
loop.close()
keep(results)
