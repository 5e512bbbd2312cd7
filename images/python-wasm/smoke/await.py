# Top-level await, asyncio.run, timers, queues: without a selector.
#%%
import asyncio, time
await asyncio.sleep(0.01, "slept")
#%%
async def work(n):
    await asyncio.sleep(0.01 * (3 - n))
    return n * n
await asyncio.gather(*(work(n) for n in range(3)))
#%%
asyncio.run(work(3))
#%%
async def main():
    queue = asyncio.Queue()
    async def produce():
        for i in range(3):
            await queue.put(i)
            await asyncio.sleep(0.001)
        await queue.put(None)
    async with asyncio.TaskGroup() as group:
        group.create_task(produce())
        got = []
        while (item := await queue.get()) is not None:
            got.append(item)
    return got
asyncio.run(main())
#%%
try:
    await asyncio.wait_for(asyncio.sleep(10), 0.01)
except TimeoutError as e:
    print("timed out", type(e).__name__)
#%%
async with asyncio.timeout(1):
    print("in time")
#%%
async def numbers():
    for i in range(3):
        yield i
[n async for n in numbers()]
#%%
done = []
async def background():
    await asyncio.sleep(0.02)
    done.append("background")
async def starts():
    global task
    task = asyncio.create_task(background())
await starts()
#%%
await task
done
#%%
await asyncio.to_thread(lambda: "in the same thread")
#%%
await asyncio.Event().wait()
#%%
async def fails():
    raise ValueError("from a coroutine")
await fails()
#%%
await asyncio.open_connection("example.com", 80)
#%% { timeout_ms = 150 }
async def outer():
    await asyncio.sleep(60)
await outer()
#%% { timeout_ms = 150 }
asyncio.run(asyncio.sleep(60))
#%%
await asyncio.sleep(0, "alive")
