"""The reader's way in: each pattern of structured concurrency as one small tool.

Served with `--toolset patterns`. They work on simulated work (a sleep) or on pages of the web, and
each body is the whole pattern: nothing is hidden but what `nursery_patterns` is for. Note what is
absent: no handler for a cancel, no polling, no list of tasks, no flag that says stop.
"""

from __future__ import annotations

import time
from typing import Annotated, Any

import trio
from mcp.types import ToolAnnotations
from pydantic import Field

from nursery_patterns import (
    Batch,
    Limits,
    TokenBucket,
    run_batch,
    run_in_thread,
    stream_batch,
    time_budget,
)
from trio_tools.answers.errors import InvalidArgument
from trio_tools.http.fetching.types import FetchRequest
from trio_tools.tools.call import Answer, Call
from trio_tools.tools.declaration import Tool
from trio_tools.tools.progress import paced_progress

Calls = Annotated[int, Field(ge=1, le=100, description="How many calls.")]
Items = Annotated[list[str], Field(min_length=1, max_length=100, description="Any texts.")]
Seconds = Annotated[float, Field(ge=0, le=10, description="Seconds that each one takes.")]
Parallel = Annotated[int, Field(ge=1, le=20, description="Most of them at once.")]
Timeout = Annotated[
    float, Field(gt=0, description="Seconds for all of it, fewer than the tool may take.")
]


async def rate_limited_operation(
    _call: Call,
    *,
    calls: Calls = 10,
    per_second: Annotated[float, Field(gt=0, le=100, description="Calls per second.")] = 5.0,
    burst: Annotated[int, Field(ge=1, le=100, description="Calls at once, to begin with.")] = 1,
) -> Answer:
    """Pattern: a rate limit. A token bucket lets calls pass at a steady rate, in order."""
    bucket = TokenBucket(rate=per_second, capacity=burst)
    waited = [await bucket.acquire() for _ in range(calls)]
    return Answer(
        summary=f"{calls} calls at {per_second:g} per second waited {sum(waited):.3g} s in all.",
        data={"waited_seconds": [round(seconds, 3) for seconds in waited]},
    )


async def parallel_fetch(
    call: Call,
    *,
    urls: Annotated[list[str], Field(min_length=1, max_length=100, description="Web addresses.")],
    max_concurrent: Parallel = 5,
) -> Answer:
    """Pattern: a bounded map. At most so many run at once; a failure is an outcome, not a crash."""
    fetcher = await call.state.services.fetcher()

    async def fetch_status(url: str) -> int:
        return (await fetcher.fetch(FetchRequest(url, body_as="none"))).status

    report = await run_batch(fetch_status, urls, limit=max_concurrent)
    pages = [
        {"url": outcome.item, "status": outcome.value, "failed": not outcome.succeeded}
        for outcome in report.outcomes
    ]
    return Answer(
        summary=f"{report.counts.succeeded} of {len(urls)} fetched.", data={"pages": pages}
    )


async def process_batch_streaming(
    call: Call, *, items: Items, seconds: Seconds = 0.1, max_concurrent: Parallel = 5
) -> Answer:
    """Pattern: a stream. Each outcome is handled as it comes; a slow handler slows the work."""
    order: list[str] = []
    async with (
        paced_progress(call) as tell,
        stream_batch(_shout(seconds), items, limit=max_concurrent) as outcomes,
    ):
        async for outcome in outcomes:
            order.append(f"{outcome.value}")
            tell(len(order), len(items), f"{outcome.item} is done")
    return Answer(summary=f"{len(order)} done, as they completed.", data={"as_completed": order})


async def process_with_timeout(
    call: Call,
    *,
    items: Items,
    seconds: Seconds = 0.1,
    timeout: Timeout = 1.0,  # noqa: ASYNC109 - the subject of the example
) -> Answer:
    """Pattern: a deadline with partial results. What finished lies outside of what is cancelled."""
    batch = Batch(_shout(seconds), items, limit=2)
    with time_budget(_seconds_left(call, timeout)) as budget:
        await batch.run()
    report = batch.report()
    return Answer(
        summary=f"{report.counts.done} of {len(items)} done in {budget.elapsed:.3g} s.",
        data={
            "results": report.values(),
            "missing": report.unfinished(),
            "complete": report.complete,
            "expired": budget.expired,
        },
    )


async def query_with_timeout(
    call: Call,
    *,
    seconds: Seconds = 0.5,
    timeout: Timeout = 0.2,  # noqa: ASYNC109 - the subject of the example
) -> Answer:
    """Pattern: a blocking call under a time limit. The thread asks whether it is still wanted."""

    def query() -> str:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            trio.from_thread.check_cancelled()
            time.sleep(0.01)
        return "rows"

    with trio.move_on_after(_seconds_left(call, timeout)):
        rows = await run_in_thread(query)
        return Answer(summary="The query ended in time.", data={"rows": rows, "timed_out": False})
    return Answer(summary="The query was stopped.", data={"rows": None, "timed_out": True})


async def cancellable_operation(
    call: Call,
    *,
    steps: Annotated[int, Field(ge=1, le=100, description="How many steps.")] = 10,
    seconds: Seconds = 0.1,
) -> Answer:
    """Pattern: clean-up on cancel. It stands in a `finally`, and its shield has a deadline.

    Cancel this call in its midst: it ends at the next step, its resource is given back, and the
    cancel goes on its way.
    """
    cleaned = False
    try:
        async with paced_progress(call) as tell:
            for step in range(1, steps + 1):
                await trio.sleep(seconds)
                tell(step, steps, f"step {step} of {steps}")
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
            await trio.sleep(0.01)  # such as telling a server that we leave
            cleaned = True
    return Answer(summary=f"{steps} steps done.", data={"steps": steps, "cleaned_up": cleaned})


async def main_operation(
    call: Call,
    *,
    items: Items,
    seconds: Seconds = 0.05,
    timeout: Timeout = 5.0,  # noqa: ASYNC109
) -> Answer:
    """Pattern: all of them together. Stages in one nursery, under one deadline and shared limits.

    Two batches share one limiter, so both together keep to it; the deadline cuts both, and each
    reports what it has.
    """
    limits = Limits({"work": 3})
    batches = {
        name: Batch(_shout(seconds), items, limiter=limits["work"], name=name)
        for name in ("first", "second")
    }
    with time_budget(_seconds_left(call, timeout)) as budget:
        async with trio.open_nursery() as nursery:
            for batch in batches.values():
                nursery.start_soon(batch.run)
    done: dict[str, Any] = {name: batch.report().values() for name, batch in batches.items()}
    return Answer(
        summary=f"Two batches of {len(items)} shared 3 slots, in {budget.elapsed:.3g} s.",
        data={**done, "peak": limits.snapshot()["work"].peak, "expired": budget.expired},
    )


def _seconds_left(call: Call, timeout: float) -> float:
    """Return what is left of `timeout` since the call arrived.

    It has to end before the time of the tool does, which cuts the tool itself, results and all.

    Raises:
        InvalidArgument: It does not.
    """
    most = call.limits.declared.timeout_seconds
    if timeout >= most:
        raise InvalidArgument(
            f"timeout must be below {most:g}, the time that {call.tool} has, got {timeout:g}: "
            "lower it",
            data={"argument": "timeout", "maximum": most},
        )
    return max(0.0, timeout - call.waited)


def _shout(seconds: float) -> Any:
    async def shout(text: str) -> str:
        await trio.sleep(seconds)
        return text.upper()

    return shout


def _example(fn: Any, *, open_world: bool = False) -> Tool:
    return Tool(
        fn=fn,
        title=fn.__name__.replace("_", " ").capitalize(),
        execution="async",
        annotations=ToolAnnotations(
            read_only_hint=True,
            open_world_hint=open_world,
        ),
        limited=False,  # each has limits of its own, which are what it shows
    )


PATTERNS: tuple[Tool, ...] = (
    _example(rate_limited_operation),
    _example(parallel_fetch, open_world=True),
    _example(process_batch_streaming),
    _example(process_with_timeout),
    _example(query_with_timeout),
    _example(cancellable_operation),
    _example(main_operation),
)
