"""The ways to run many items a few at a time. One process measures one: NAME ITEMS LIMIT.

The item is an async function with one checkpoint.
"""

import asyncio  # noqa: TID251 - one of the contenders
import functools
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import aiometer
import trio

from nursery_patterns import (
    AdaptiveLimiter,
    Admission,
    Batch,
    Frontier,
    Observer,
    Outcome,
    Retry,
    TokenBucket,
    hedged,
    run_batch,
    single_flight,
    stream_batch,
)
from tests.benchmarks._runner import measure, print_cost


async def item_on_trio(i: int) -> int:
    await trio.lowlevel.checkpoint()
    return i


async def item_on_asyncio(i: int) -> int:
    await asyncio.sleep(0)
    return i


# --- asyncio: a semaphore, a task per item, gather, per-item outcomes and statistics ----------


@dataclass
class TaskResult:
    index: int
    item: int
    success: bool
    value: int | None = None
    error: Exception | None = None
    duration: float = 0.0


class SemaphoreAndGather:
    def __init__(self, limit: int) -> None:
        self.semaphore = asyncio.Semaphore(limit)
        self.started = self.succeeded = self.failed = self.active = self.peak = 0

    async def run_one(self, index: int, item: int) -> TaskResult:
        async with self.semaphore:
            self.started += 1
            self.active += 1
            self.peak = max(self.peak, self.active)
            started = time.perf_counter()
            try:
                value = await item_on_asyncio(item)
            except Exception as exc:  # noqa: BLE001 - a failure is an outcome, as it is for us
                self.failed += 1
                seconds = time.perf_counter() - started
                return TaskResult(index, item, success=False, error=exc, duration=seconds)
            else:
                self.succeeded += 1
                seconds = time.perf_counter() - started
                return TaskResult(index, item, success=True, value=value, duration=seconds)
            finally:
                self.active -= 1

    async def run(self, items: range) -> list[TaskResult]:
        return await asyncio.gather(*(self.run_one(i, item) for i, item in enumerate(items)))


def asyncio_semaphore_and_gather(items: int, limit: int) -> None:
    async def main() -> None:
        results = await SemaphoreAndGather(limit).run(range(items))
        assert sum(result.value for result in results) == sum(range(items))

    asyncio.run(main())


# --- trio ----------------------------------------------------------------------------------------


def aiometer_run_all(items: int, limit: int) -> None:
    async def main() -> None:
        calls = [functools.partial(item_on_trio, i) for i in range(items)]
        results = await aiometer.run_all(calls, max_at_once=limit)
        assert sum(results) == sum(range(items))

    trio.run(main)


def aiometer_amap(items: int, limit: int) -> None:
    async def main() -> None:
        total = 0
        async with aiometer.amap(item_on_trio, list(range(items)), max_at_once=limit) as results:
            async for value in results:
                total += value
        assert total == sum(range(items))

    trio.run(main)


def bare_worker_loop(items: int, limit: int) -> None:
    async def main() -> None:
        results = [0] * items
        source = iter(range(items))

        async def work() -> None:
            for i in source:
                results[i] = await item_on_trio(i)

        async with trio.open_nursery() as nursery:
            for _ in range(limit):
                nursery.start_soon(work)
        assert sum(results) == sum(range(items))

    trio.run(main)


async def numbers(items: int) -> AsyncIterator[int]:
    for i in range(items):
        yield i


def async_source_worker_loop(items: int, limit: int) -> None:
    async def main() -> None:
        results = [0] * items
        source = numbers(items)
        pulling = trio.Lock()  # an async generator gives one item at a time

        async def work() -> None:
            while True:
                async with pulling:
                    i = await anext(source, None)
                if i is None:
                    return
                results[i] = await item_on_trio(i)

        async with trio.open_nursery() as nursery:
            for _ in range(limit):
                nursery.start_soon(work)
        assert sum(results) == sum(range(items))

    trio.run(main)


def channel_worker_loop(items: int, limit: int) -> None:
    async def main() -> None:
        results = [0] * items
        send, receive = trio.open_memory_channel[int](limit)

        async def work() -> None:
            async for i in receive:
                results[i] = await item_on_trio(i)

        async with trio.open_nursery() as nursery:
            for _ in range(limit):
                nursery.start_soon(work)
            async with send:
                for i in range(items):
                    await send.send(i)
        assert sum(results) == sum(range(items))

    trio.run(main)


def bucket_worker_loop(items: int, limit: int) -> None:
    async def main() -> None:
        results = [0] * items
        source = iter(range(items))
        bucket = TokenBucket(1e9, 1_000_000)

        async def work() -> None:
            for i in source:
                await bucket.acquire()
                results[i] = await item_on_trio(i)

        async with trio.open_nursery() as nursery:
            for _ in range(limit):
                nursery.start_soon(work)
        assert sum(results) == sum(range(items))

    trio.run(main)


def ours_async_source(items: int, limit: int) -> None:
    async def main() -> None:
        report = await run_batch(item_on_trio, numbers(items), limit=limit)
        assert sum(report.values()) == sum(range(items))

    trio.run(main)


def ours_channel(items: int, limit: int) -> None:
    async def main() -> None:
        send, receive = trio.open_memory_channel[int](limit)
        batch = Batch(item_on_trio, receive, limit=limit)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(batch.run)
            async with send:
                for i in range(items):
                    await send.send(i)
        assert sum(batch.report().values()) == sum(range(items))

    trio.run(main)


def ours_bucket(items: int, limit: int) -> None:
    async def main() -> None:
        bucket = TokenBucket(1e9, 1_000_000)
        report = await run_batch(item_on_trio, range(items), limit=limit, bucket=bucket)
        assert sum(report.values()) == sum(range(items))

    trio.run(main)


def two_worker_loops(items: int, limit: int) -> None:
    """A pipeline by hand: the workers of one stage send to those of the next."""

    async def main() -> None:
        results = [0] * items
        source = iter(range(items))
        send, receive = trio.open_memory_channel[int](limit)

        async def first() -> None:
            for i in source:
                await send.send(await item_on_trio(i))

        async def second() -> None:
            async for i in receive:
                results[i] = await item_on_trio(i)

        async with trio.open_nursery() as nursery:
            for _ in range(limit):
                nursery.start_soon(second)
            async with send, trio.open_nursery() as senders:
                for _ in range(limit):
                    senders.start_soon(first)
        assert sum(results) == sum(range(items))

    trio.run(main)


def ours_pipeline(items: int, limit: int) -> None:
    async def main() -> None:
        async with stream_batch(item_on_trio, range(items), limit=limit) as outcomes:
            report = await run_batch(item_on_trio, outcomes.values(), limit=limit)
        assert sum(report.values()) == sum(range(items))

    trio.run(main)


def ours_frontier(items: int, limit: int) -> None:
    async def main() -> None:
        async def visit(i: int) -> int:
            await trio.lowlevel.checkpoint()
            for more in (2 * i + 1, 2 * i + 2):
                if more < items:
                    frontier.add(more)
            return i

        frontier = Frontier([0], max_items=items)
        report = await run_batch(visit, frontier, limit=limit)
        assert sum(report.values()) == sum(range(items))

    trio.run(main)


def ours_retry(items: int, limit: int) -> None:
    async def main() -> None:
        report = await run_batch(item_on_trio, range(items), limit=limit, retry=Retry())
        assert sum(report.values()) == sum(range(items))

    trio.run(main)


def ours_per_key(items: int, limit: int) -> None:
    async def main() -> None:
        report = await run_batch(
            item_on_trio, range(items), limit=limit, key=lambda i: i % 100, limit_per_key=5
        )
        assert sum(report.values()) == sum(range(items))

    trio.run(main)


def ours_shared_limiter(
    items: int, limit: int, make: Callable[[int], trio.CapacityLimiter] = trio.CapacityLimiter
) -> None:
    async def main() -> None:
        report = await run_batch(item_on_trio, range(items), limit=2 * limit, limiter=make(limit))
        assert sum(report.values()) == sum(range(items))

    trio.run(main)


def adaptive(limit: int) -> trio.CapacityLimiter:
    return AdaptiveLimiter(limit, 1, limit)


ours_adaptive = functools.partial(ours_shared_limiter, make=adaptive)


def ours_single_flight(items: int, limit: int) -> None:
    """Calls of `limit` callers at a time, of which each two share one."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            shared = single_flight(item_on_trio, nursery)

            async def call(i: int) -> int:
                return await shared(i // 2)

            report = await run_batch(call, range(items), limit=limit)
        assert sum(report.values()) == 2 * sum(range(items // 2))

    trio.run(main)


def ours_hedged(items: int, limit: int) -> None:
    async def main() -> None:
        async def call(i: int) -> int:
            return await hedged(item_on_trio, i, delay=60)

        report = await run_batch(call, range(items), limit=limit)
        assert sum(report.values()) == sum(range(items))

    trio.run(main)


def ours_priorities(items: int, limit: int, keys: int) -> None:
    """Slots of an admission for so many keys, of which all but a few wait, at two priorities."""

    async def main() -> None:
        admission = Admission(trio.CapacityLimiter(max(1, limit // 2)), max_waiting=keys)

        async def client(key: int) -> None:
            for _ in range(items // keys):
                async with admission.slot(key=key, weight=1 + key % 3, priority=key % 2):
                    await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            for key in range(keys):
                nursery.start_soon(client, key)

    trio.run(main)


def ours_observed(items: int, limit: int) -> None:
    class Counter(Observer[int, int]):
        begun = done = 0

        def started(self, index: int, item: int) -> None:
            self.begun += 1

        def ended(self, outcome: Outcome[int, int]) -> None:
            self.done += 1

    async def main() -> None:
        counter = Counter()
        await run_batch(item_on_trio, range(items), limit=limit, observer=counter)
        assert counter.begun == counter.done == items

    trio.run(main)


def task_per_item(items: int, limit: int) -> None:
    async def main() -> None:
        results = [0] * items
        limiter = trio.CapacityLimiter(limit)

        async def run_one(i: int) -> None:
            async with limiter:
                results[i] = await item_on_trio(i)

        async with trio.open_nursery() as nursery:
            for i in range(items):
                nursery.start_soon(run_one, i)
        assert sum(results) == sum(range(items))

    trio.run(main)


def ours_run_batch(items: int, limit: int) -> None:
    async def main() -> None:
        report = await run_batch(item_on_trio, range(items), limit=limit)
        assert report.complete
        assert sum(report.values()) == sum(range(items))

    trio.run(main)


def ours_stream_batch(items: int, limit: int, *, ordered: bool = False) -> None:
    async def main() -> None:
        total = 0
        async with stream_batch(
            item_on_trio, range(items), limit=limit, ordered=ordered
        ) as outcomes:
            async for outcome in outcomes:
                total += outcome.value
        assert total == sum(range(items))

    trio.run(main)


ours_stream_batch_ordered = functools.partial(ours_stream_batch, ordered=True)

CONTENDERS: dict[str, Callable[[int, int], None]] = {
    "bare trio worker loop, no outcomes": bare_worker_loop,
    "run_batch": ours_run_batch,
    "stream_batch": ours_stream_batch,
    "stream_batch, ordered": ours_stream_batch_ordered,
    "worker loop over an async generator": async_source_worker_loop,
    "run_batch over an async generator": ours_async_source,
    "worker loop over a channel": channel_worker_loop,
    "run_batch over a channel": ours_channel,
    "worker loop with a bucket": bucket_worker_loop,
    "run_batch with a bucket": ours_bucket,
    "two worker loops and a channel": two_worker_loops,
    "stream_batch into run_batch": ours_pipeline,
    "run_batch over a frontier": ours_frontier,
    "run_batch with retry": ours_retry,
    "run_batch with limits per key": ours_per_key,
    "run_batch with an observer": ours_observed,
    "run_batch with a shared limiter": ours_shared_limiter,
    "run_batch with an adaptive limiter": ours_adaptive,
    "run_batch of single_flight": ours_single_flight,
    "run_batch of hedged": ours_hedged,
    "slots for 10 keys": functools.partial(ours_priorities, keys=10),
    "slots for 1,000 keys": functools.partial(ours_priorities, keys=1_000),
    "slots for 10,000 keys": functools.partial(ours_priorities, keys=10_000),
    "asyncio semaphore + gather": asyncio_semaphore_and_gather,
    "trio, a task per item and a limiter": task_per_item,
    "aiometer.run_all on trio": aiometer_run_all,
    "aiometer.amap on trio": aiometer_amap,
}


if __name__ == "__main__":
    name, items, limit = sys.argv[1:]
    print_cost(measure(lambda: CONTENDERS[name](int(items), int(limit))))
