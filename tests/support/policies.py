"""Every way to run items through the engine, behind one signature, for the contract suite.

A policy runs all items to their end and returns the outcomes in the order in which it gave them.
"""

from dataclasses import dataclass
from itertools import product

import trio

from nursery_patterns import Batch, TokenBucket, run_batch, stream_batch


async def batch_run(fn, items, **options):
    report = await Batch(fn, items, **options).run()
    return list(report.outcomes)


async def one_call(fn, items, **options):
    report = await run_batch(fn, items, **options)
    return list(report.outcomes)


async def batch_stream(fn, items, **options):
    async with Batch(fn, items, **options).stream() as outcomes:
        return [outcome async for outcome in outcomes]


async def batch_stream_ordered(fn, items, **options):
    async with Batch(fn, items, **options).stream(ordered=True) as outcomes:
        return [outcome async for outcome in outcomes]


async def one_call_stream(fn, items, **options):
    async with stream_batch(fn, items, **options) as outcomes:
        return [outcome async for outcome in outcomes]


async def one_call_stream_ordered(fn, items, **options):
    async with stream_batch(fn, items, ordered=True, **options) as outcomes:
        return [outcome async for outcome in outcomes]


IN_INPUT_ORDER = [batch_run, one_call, batch_stream_ordered, one_call_stream_ordered]
AS_COMPLETED = [batch_stream, one_call_stream]
STREAMS = [batch_stream, batch_stream_ordered, one_call_stream, one_call_stream_ordered]


def own_limit(n):
    return {"limit": n}


def shared_limiter(n):
    return {"limit": 1000, "limiter": trio.CapacityLimiter(n)}


def own_limit_below_a_shared_one(n):
    return {"limit": n, "limiter": trio.CapacityLimiter(1000)}


def own_limit_and_bucket(n):
    return {"limit": n, "bucket": TokenBucket(rate=1e6, capacity=1_000_000)}


CAPACITIES = [own_limit, shared_limiter, own_limit_below_a_shared_one, own_limit_and_bucket]


class Items:
    """The numbers below n, from a source that counts how many were pulled out of it."""

    def __init__(self, n):
        self.n = n
        self.pulled = 0

    def _next(self, stop):
        if self.pulled == self.n:
            raise stop
        self.pulled += 1
        return self.pulled - 1


class SizedItems(Items):
    def __len__(self):
        return self.n

    def __iter__(self):
        return iter(lambda: self._next(StopIteration), None)


class IteratorItems(Items):
    def __iter__(self):
        return self

    def __next__(self):
        return self._next(StopIteration)


class AsyncItems(Items):
    """Has a checkpoint in front of each item, as a source that reads from somewhere has."""

    def __aiter__(self):
        return self

    async def __anext__(self):
        await trio.lowlevel.checkpoint()
        return self._next(StopAsyncIteration)


class SizedAsyncItems(AsyncItems):
    def __len__(self):
        return self.n


class GeneratorItems(Items):
    def __iter__(self):
        for i in range(self.n):
            self.pulled += 1
            yield i


SOURCES = [SizedItems, IteratorItems, GeneratorItems, AsyncItems, SizedAsyncItems]


@dataclass(frozen=True)
class Way:
    """One combination: how to run, what bounds it, where the items come from."""

    policy: object
    capacity: object
    source: object

    async def __call__(self, fn, items, limit=10, **options):
        return await self.policy(fn, items, **{**self.capacity(limit), **options})

    def __str__(self):
        return f"{self.policy.__name__}-{self.capacity.__name__}-{self.source.__name__}"


def ways(policies=(*IN_INPUT_ORDER, *AS_COMPLETED), capacities=CAPACITIES, sources=SOURCES):
    """All combinations; but in one each the calls that only make a Batch and run it."""
    return [
        Way(policy, capacity, source)
        for policy, capacity, source in product(policies, capacities, sources)
        if not policy.__name__.startswith("one_call")
        or (capacity is capacities[0] and source is sources[0])
    ]
