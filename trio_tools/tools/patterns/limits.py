"""A rate limit, a bounded map, a stream."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any

from pydantic import Field

from nursery_patterns import TokenBucket, run_batch, stream_batch
from trio_tools.answers.errors import InvalidArgument
from trio_tools.tools.application.context import ToolContext
from trio_tools.tools.call import Answer
from trio_tools.tools.patterns.hashing import Parallel, Seconds, Texts, failure_of, hashed

_RATE, _BURST = 10.0, 20


def rate_limited() -> Callable[..., Awaitable[Answer]]:
    """Return the function of one server; its calls share one bucket."""
    shared = TokenBucket(_RATE, _BURST)

    async def rate_limited_operation(
        context: ToolContext,
        data: Annotated[str, Field(description="Text to hash.")],
        calls: Annotated[int, Field(ge=1, le=100, description="How often, a token each.")] = 1,
        per_second: Annotated[
            float | None, Field(gt=0, le=100, description="Another rate, for this call alone.")
        ] = None,
        burst: Annotated[
            int | None, Field(ge=1, le=100, description="Another burst, for this call alone.")
        ] = None,
    ) -> Answer:
        """Pattern: a rate limit. Calls share 10 tokens per second, 20 at once, first in first out.

        A caller that is cancelled while it waits takes no token and delays nobody.
        """
        bucket = shared
        if per_second is not None or burst is not None:
            bucket = TokenBucket(per_second or _RATE, burst or 1)
        waited = 0.0
        for _ in range(calls):
            waited += await bucket.acquire()
        left = bucket.statistics()
        return Answer(
            summary=f"Done, after {waited:.3g} s of waiting for the rate.",
            data={"result": await hashed(context, data), "waited_seconds": round(waited, 6)},
            rate_limit={
                "limit": left.capacity,
                "remaining": int(left.tokens),
                "retry_after_seconds": None,
                "waited_seconds": round(waited, 6),
            },
        )

    return rate_limited_operation


async def parallel_fetch(
    context: ToolContext,
    items: Annotated[
        list[str] | None, Field(min_length=1, max_length=100, description="URLs to fetch.")
    ] = None,
    urls: Annotated[
        list[str] | None, Field(min_length=1, max_length=100, description="Old name of items.")
    ] = None,
    max_concurrent: Parallel = 5,
) -> Answer:
    """Pattern: a bounded map. At most so many run at once; a failure is an outcome, not a crash."""
    if (items is None) == (urls is None):
        raise InvalidArgument(
            "give exactly one of items and urls, as in parallel_fetch(items=['https://…'])",
            data={"arguments": ["items", "urls"]},
        )

    async def fetch_item(url: str) -> dict[str, Any]:
        page = await context.run("fetch", {"url": url, "body_as": "none"})
        final_url = page.get("final_url", url)
        return {"status": page["status"], "content_type": page["content_type"], "url": final_url}

    report = await run_batch(fetch_item, items or urls or [], limit=max_concurrent)
    results = [
        {"id": outcome.item, "status": "success", "data": outcome.value}
        for outcome in report.outcomes
        if outcome.succeeded
    ]
    errors = [
        {"id": outcome.item, **failure_of(outcome)}
        for outcome in report.outcomes
        if not outcome.succeeded
    ]
    total = len(report.outcomes)
    return Answer(
        summary=f"{len(results)} of {total} fetched.",
        data={"results": results, "errors": errors, "total": total, "succeeded": len(results)},
        warnings=[f"{len(errors)} items failed"] if errors else [],
    )


async def process_batch_streaming(
    context: ToolContext, items: Texts, seconds: Seconds = 0.0, max_concurrent: Parallel = 5
) -> Answer:
    """Pattern: a stream. Each outcome is handled as it comes; a slow handler slows the work."""
    results: list[dict[str, Any]] = []
    work = partial(hashed, context, after=seconds)
    async with stream_batch(work, items, limit=max_concurrent) as stream:
        async for outcome in stream:
            results.append(
                {"status": "success", "result": outcome.value}
                if outcome.succeeded
                else failure_of(outcome)
            )
            done = len(results)
            context.progress(done, len(items), f"{done} of {len(items)} are done")
    return Answer(
        summary=f"{len(results)} done, in the order of their end.", data={"results": results}
    )
