"""What a type checker makes of the public names. Checked by pyright, never run.

A line that must be an error carries an ignore; pyright in strict mode complains about an ignore
that is not needed, so a case that starts to pass is noticed.
"""
# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from collections.abc import AsyncIterator
from functools import partial
from typing import Any, assert_type

import trio

from nursery_patterns import (
    AIMD,
    AdaptiveLimiter,
    Batch,
    Counts,
    Frontier,
    HedgePolicy,
    Journal,
    Limits,
    Observer,
    Outcome,
    Report,
    RequestContext,
    Retry,
    TimeBudget,
    TokenBucket,
    current_request,
    hedged,
    run_batch,
    run_in_process,
    run_in_thread,
    single_flight,
    stream_batch,
    time_budget,
)
from nursery_patterns.testing import Probe, cancel_at_every_checkpoint


async def length(text: str) -> int:
    await trio.lowlevel.checkpoint()
    return len(text)


async def scaled(factor: float, text: str) -> float:
    return factor * await length(text)


def plain(text: str) -> int:
    return len(text)


async def texts() -> AsyncIterator[str]:
    await trio.lowlevel.checkpoint()
    yield "a"


async def values_keep_their_types() -> None:
    batch = Batch(length, ["a"], limit=2)
    assert_type(batch, Batch[str, int])
    assert_type(batch.item_timeout, float | None)
    report = await batch.run()
    assert_type(report, Report[str, int])
    assert_type(report.values(), list[int])
    assert_type(report.outcomes, tuple[Outcome[str, int], ...])
    assert_type(report.outcomes[0].item, str)
    assert_type(report.outcomes[0].value, int | None)
    assert_type(report.outcomes[0].unwrap(), int)
    assert_type(report.errors(), list[Exception])
    assert_type(report.unfinished(), list[str])
    assert_type(report.counts, Counts)
    assert_type(report.counts.total, int | None)
    assert_type(batch.progress.value, Counts)
    assert_type(await batch.progress.wait_value(lambda counts: counts.failed > 0), Counts)


class Kept(Journal[str, int]):
    def added(self, item: str) -> None:
        assert_type(item, str)

    def outcomes(self) -> list[Outcome[str, int]]:
        return []


class Watched(Observer[str, int]):
    def ended(self, outcome: Outcome[str, int]) -> None:
        assert_type(outcome.unwrap(), int)


class Told(Observer[Any, Any]):
    pass


def journals_have_the_types_of_their_batch() -> None:
    Batch(length, ["a"], journal=Kept(), observer=Watched())
    Batch(length, ["a"], observer=Told())
    Batch(plain_length, [1], journal=Kept())  # pyright: ignore[reportArgumentType]


async def plain_length(number: int) -> int:
    return number


async def policies_keep_the_types_of_items_and_values() -> None:
    frontier = Frontier(["a"], key=str.lower, priority=len)
    assert_type(frontier, Frontier[str])
    assert_type(frontier.add("b"), bool)
    entries: list[tuple[str, int | None]] = [("a", 0), ("b", None)]
    assert_type(Frontier.restore(entries, key=str.lower), Frontier[str])
    Frontier.restore([("a", "0")])  # pyright: ignore[reportArgumentType]
    assert_type(await run_batch(length, frontier), Report[str, int])
    report = await run_batch(length, ["a"], retry=Retry(on=(OSError, KeyError)), total_timeout=5)
    assert_type(report.outcomes[0].attempts, int)
    assert_type(report.outcomes[0].note, str | None)
    retried = Retry(on=lambda error: 2.5 if isinstance(error, OSError) else "stop")(scaled)
    assert_type(await retried(2.0, "a"), float)
    await retried("a")  # pyright: ignore[reportCallIssue]
    Batch(length, ["a"], key=len, limit_per_key=2, bucket_per_key=TokenBucket(1, 1))
    async with stream_batch(length, ["a"]) as lengths:
        assert_type(await run_batch(squared, lengths.values()), Report[int, int])


async def squared(number: int) -> int:
    return number * number


async def calls_keep_their_types() -> None:
    assert_type(await run_batch(length, ["a"], timeout=3), Report[str, int])
    assert_type(await run_batch(length, texts()), Report[str, int])
    assert_type(await run_batch(partial(scaled, 2.0), ["a"]), Report[str, float])
    async with stream_batch(length, texts(), ordered=True) as outcomes:
        async for outcome in outcomes:
            assert_type(outcome, Outcome[str, int])
    with time_budget(3) as budget:
        assert_type(budget, TimeBudget)
    assert_type(Limits(default=2)["a"], trio.CapacityLimiter)
    assert_type(current_request(), RequestContext | None)
    assert_type(await TokenBucket(1, 1).acquire(), float)


async def the_patterns_keep_types(nursery: trio.Nursery) -> None:
    shared = single_flight(length, nursery)
    assert_type(await shared("a"), int)
    assert_type(await hedged(length, "a", delay=0.1), int)
    assert_type(await hedged(length, "a", delay=HedgePolicy()), int)
    await run_batch(length, ["a"], limiter=AdaptiveLimiter(algorithm=AIMD()))
    assert_type(await run_in_process(len, "a", max_cpu_seconds=1), int)
    assert_type(await run_in_thread(len, "a", limiter=AdaptiveLimiter()), int)
    async with Limits().slot("a", key=1, weight=2, priority=-1):
        await shared(1)  # pyright: ignore[reportArgumentType]
        await hedged(length, 1, delay=0.1)  # pyright: ignore[reportArgumentType]


async def wrong_calls_are_errors() -> None:
    Batch(plain, ["a"])  # pyright: ignore[reportArgumentType]
    Batch(length, [1])  # pyright: ignore[reportArgumentType]
    Batch(length("a"), ["a"])  # pyright: ignore[reportArgumentType]
    Batch(length, ["a"], on_error="ignore")  # pyright: ignore[reportArgumentType]
    Batch(length, ["a"], 5)  # pyright: ignore[reportCallIssue]
    await run_batch(length, ["a"], limit="5")  # pyright: ignore[reportArgumentType]
    await run_batch(length, ["a"], max_at_once=5)  # pyright: ignore[reportCallIssue]
    report = await run_batch(length, ["a"])
    report.counts = Counts()  # pyright: ignore[reportAttributeAccessIssue]


async def scenario(probe: Probe) -> None:
    assert_type(probe.watch(Batch(length, ["a"])), Batch[str, int])
    assert_type(probe.watch(trio.CapacityLimiter(1)), trio.CapacityLimiter)
    await trio.lowlevel.checkpoint()


def the_kit_takes_a_scenario() -> None:
    assert_type(cancel_at_every_checkpoint(scenario), int)
    cancel_at_every_checkpoint(length)  # pyright: ignore[reportArgumentType]
