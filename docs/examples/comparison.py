# The same tasks with trio by hand, with aiometer and here. docs/comparison.md says how each ends.
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import aiometer
import trio
from trio.testing import MockClock

from nursery_patterns import Batch, Report, TokenBucket, run_batch, stream_batch

Fetch = Callable[[int], Awaitable[str]]

# --- trio by hand --------------------------------------------------------------------------------


async def run_by_hand(fetch: Fetch, pages: Iterable[int], found: dict[int, str]) -> None:
    todo = (page for page in pages if page not in found)

    async def work() -> None:
        for page in todo:  # ten workers pull from one generator
            with trio.move_on_after(5):
                found[page] = await fetch(page)

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(work)


async def cut_and_resume_by_hand(fetch: Fetch, pages: Sequence[int]) -> dict[int, str]:
    found: dict[int, str] = {}  # outside the scope that is cancelled
    with trio.move_on_after(30):
        await run_by_hand(fetch, pages, found)
    print(f"by hand:  {len(found)} of {len(pages)} are there")
    await run_by_hand(fetch, pages, found)  # only what is missing
    return found


@asynccontextmanager
async def stream_by_hand(
    fetch: Fetch, pages: Iterable[int]
) -> AsyncGenerator[trio.MemoryReceiveChannel[str]]:
    send, receive = trio.open_memory_channel[str](0)
    todo = iter(pages)

    async def work(send: trio.MemorySendChannel[str]) -> None:
        async with send:
            for page in todo:
                await send.send(await fetch(page))

    async with trio.open_nursery() as nursery:
        async with send:
            for _ in range(10):
                nursery.start_soon(work, send.clone())
        yield receive
        nursery.cancel_scope.cancel()  # the consumer has left


def paced_by_hand(fetch: Fetch, rate: float) -> Fetch:
    turn = 0.0

    async def paced(page: int) -> str:
        nonlocal turn
        turn = max(turn + 1 / rate, trio.current_time())
        await trio.sleep_until(turn)
        return await fetch(page)

    return paced


# --- aiometer ------------------------------------------------------------------------------------


async def run_with_aiometer(fetch: Fetch, pages: Iterable[int]) -> list[str]:
    return await aiometer.run_all([partial(fetch, page) for page in pages], max_at_once=10)


async def cut_with_aiometer(fetch: Fetch, pages: Sequence[int]) -> list[str]:
    found: list[str] = []
    with trio.move_on_after(30):
        async with aiometer.amap(fetch, pages, max_at_once=10) as results:
            async for text in results:
                found.append(text)
    print(f"aiometer: {len(found)} of {len(pages)} are there, and not told which")
    return found


async def pace_with_aiometer(fetch: Fetch, pages: Sequence[int]) -> None:
    await aiometer.run_on_each(fetch, pages, max_at_once=10, max_per_second=10)


# --- here ----------------------------------------------------------------------------------------


async def cut_and_resume_here(fetch: Fetch, pages: Iterable[int]) -> Report[int, str]:
    batch = Batch(fetch, pages, limit=10, item_timeout=5)
    with trio.move_on_after(30):
        await batch.run()
    print(f"here:     {batch.report().counts}")
    return await batch.run()  # only what is missing


async def stream_here(fetch: Fetch, pages: Iterable[int], enough: int) -> list[str | None]:
    found: list[str | None] = []
    async with stream_batch(fetch, pages, limit=10) as outcomes:
        async for outcome in outcomes:
            found.append(outcome.value)
            if len(found) == enough:
                break
    return found


async def pace_here(fetch: Fetch, pages: Iterable[int]) -> Report[int, str]:
    return await run_batch(fetch, pages, limit=10, bucket=TokenBucket(rate=10, capacity=3))


async def main() -> None:
    async def fetch(page: int) -> str:
        await trio.sleep(4)
        return f"page {page}"

    pages = range(100)
    await cut_and_resume_by_hand(fetch, pages)
    await cut_with_aiometer(fetch, pages)
    await cut_and_resume_here(fetch, pages)


if __name__ == "__main__":
    trio.run(main, clock=MockClock(autojump_threshold=0))  # 148 seconds in no time
