"""The reader's way in: each pattern of structured concurrency as one small tool.

Served with `--toolset patterns`. Names, arguments and fields are those of the guideline that
`docs/guideline.md` goes through. The work is real: they fetch, hash and query. Note what is absent:
no handler for a cancel, no polling, no list of tasks, no flag that says stop.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any
from weakref import WeakKeyDictionary

import trio
from mcp.types import ToolAnnotations
from pydantic import Field

from nursery_patterns import (
    Batch,
    Outcome,
    Status,
    TokenBucket,
    current_request,
    run_batch,
    stream_batch,
    time_budget,
)
from trio_tools.answers.error_mapping import outcome_failure
from trio_tools.answers.errors import InvalidArgument, TimedOut
from trio_tools.answers.texts import Told, counted, json_line
from trio_tools.files.hashing import Digest, encode_text, hash_text
from trio_tools.http.fetching.types import FetchRequest
from trio_tools.live.state import ServerState
from trio_tools.operations.builtin.data import query_data, rows_text
from trio_tools.settings.threads import run_in_tool_thread
from trio_tools.tools.batches.calls import BatchRequest, run_batch_call
from trio_tools.tools.batches.progress import paced_progress
from trio_tools.tools.call import Answer, Call
from trio_tools.tools.declaring.arguments import BudgetSeconds, OperationId, TimeoutSeconds
from trio_tools.tools.declaring.declaration import Tool

if TYPE_CHECKING:
    from trio_tools.database.databases import Databases

Texts = Annotated[list[str], Field(min_length=1, max_length=100, description="Texts to hash.")]
Seconds = Annotated[float, Field(ge=0, le=10, description="Wait before each one, in seconds.")]
Parallel = Annotated[int, Field(ge=1, le=20, description="Most of them at once.")]

_RATE, _BURST = 10.0, 20
_TIGHT = 0.8
_LEAST_SECONDS = 0.001
# The digest of a short text takes less time than the way to a thread and back.
_SHORT_CHARS = 2_000
_QUERY_ROWS = 100

# One for each server, so that all of its calls share the rate.
_buckets: WeakKeyDictionary[ServerState, TokenBucket] = WeakKeyDictionary()


async def rate_limited_operation(
    call: Call,
    *,
    data: Annotated[str, Field(description="Text to hash.")],
    calls: Annotated[int, Field(ge=1, le=100, description="How often, a token each.")] = 1,
    per_second: Annotated[
        float | None, Field(gt=0, le=100, description="Another rate, for this call alone.")
    ] = None,
    burst: Annotated[
        int | None, Field(ge=1, le=100, description="Another burst, for this call alone.")
    ] = None,
) -> Answer:
    """Pattern: a rate limit. All calls share 10 tokens per second, 20 at once, first in first out.

    A caller that is cancelled while it waits takes no token and delays nobody.
    """
    if per_second is None and burst is None:
        bucket = _buckets.setdefault(call.state, TokenBucket(_RATE, _BURST))
    else:
        bucket = TokenBucket(per_second or _RATE, burst or 1)
    waited = 0.0
    for _ in range(calls):
        waited += await bucket.acquire()
    left = bucket.statistics()
    return Answer(
        summary=f"Done, after {waited:.3g} s of waiting for the rate.",
        data={"result": await _hashed(call, data), "waited_seconds": round(waited, 6)},
        rate_limit={
            "limit": left.capacity,
            "remaining": int(left.tokens),
            "retry_after_seconds": None,
            "waited_seconds": round(waited, 6),
        },
    )


async def parallel_fetch(
    call: Call,
    *,
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
    fetcher = await call.state.services.fetcher()

    async def fetch_item(url: str) -> dict[str, Any]:
        page = await fetcher.fetch(FetchRequest(url, body_as="none"))
        return {"status": page.status, "content_type": page.content_type, "url": page.final_url}

    report = await run_batch(fetch_item, items or urls or [], limit=max_concurrent)
    results = [
        {"id": outcome.item, "status": "success", "data": outcome.value}
        for outcome in report.outcomes
        if outcome.succeeded
    ]
    errors = [
        {"id": outcome.item, **_failure(outcome)}
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
    call: Call, *, items: Texts, seconds: Seconds = 0.0, max_concurrent: Parallel = 5
) -> Answer:
    """Pattern: a stream. Each outcome is handled as it comes; a slow handler slows the work."""
    results: list[dict[str, Any]] = []
    async with (
        paced_progress(call) as tell,
        stream_batch(partial(_hashed, call, after=seconds), items, limit=max_concurrent) as stream,
    ):
        async for outcome in stream:
            results.append(
                {"status": "success", "result": outcome.value}
                if outcome.succeeded
                else _failure(outcome)
            )
            tell(len(results), len(items), f"{len(results)} of {len(items)} are done")
    return Answer(
        summary=f"{len(results)} done, in the order of their end.", data={"results": results}
    )


async def process_with_timeout(
    call: Call,
    *,
    items: Texts,
    timeout: Annotated[  # noqa: ASYNC109 - the subject of the example
        float, Field(gt=0, description="Seconds for all of it.")
    ] = 60.0,
    seconds: Seconds = 0.0,
) -> Answer:
    """Pattern: a deadline with partial results. What finished lies outside of what is cancelled."""
    cap = call.limits.declared.max_timeout_seconds
    if timeout > cap:
        raise InvalidArgument(
            f"timeout must be at most {cap:g}, got {timeout:g}: lower it, or split the work over "
            "several calls",
            data={"argument": "timeout", "maximum": cap},
        )
    batch = Batch(partial(_hashed, call, after=seconds), items, limit=2)
    with time_budget(max(0.0, timeout - call.waited)):
        await batch.run()
    report = batch.report()
    return Answer(
        summary=f"{report.counts.done} of {len(items)} done in {call.waited:.3g} s.",
        data={
            "results": report.values(),
            "errors": [
                {"item": outcome.item, **_failure(outcome)}
                for outcome in report.outcomes
                if outcome.status is Status.FAILED
            ],
            "complete": report.complete,
            "missing": report.unfinished(),
        },
        warnings=[]
        if report.complete
        else [f"Operation timed out after {timeout:g}s, returning partial results"],
    )


async def query_with_timeout(
    call: Call,
    *,
    query: Annotated[str, Field(description="One SQL statement that reads.")],
    timeout_seconds: TimeoutSeconds = 30.0,
    database: Annotated[
        str | None, Field(description="The first one if left out; an empty one if there is none.")
    ] = None,
) -> Answer:
    """Pattern: a query with a time limit, stopped in the database when its time is up."""
    seconds = call.limits.seconds_for(timeout_seconds)
    try:
        async with _databases(call, database) as (databases, name):
            result = await databases.query(
                name,
                query,
                max_rows=_QUERY_ROWS,
                max_bytes=call.state.settings.max_output_chars,
                timeout_seconds=max(_LEAST_SECONDS, seconds - call.waited),
            )
    except TimedOut:
        raise _query_timed_out(call, seconds) from None
    elapsed = call.waited
    timing = {
        "elapsed_seconds": round(elapsed, 2),
        "timeout_seconds": seconds,
        "headroom_seconds": round(max(0.0, seconds - elapsed), 2),
    }
    rows = query_data(result)
    line, _, table = rows_text(rows).partition("\n")
    tight = ["Query used >80% of timeout budget"] if elapsed > _TIGHT * seconds else []
    return Answer(
        summary=f"{counted(result.row_count, 'row')} in {elapsed:.3g} of {seconds:g} s.",
        data={"result": rows, "timing": timing},
        told=[Told(line, table)],
        text=f"timing {json_line(timing)}",
        warnings=[*tight, *result.warnings],
    )


async def cancellable_operation(
    call: Call,
    *,
    items: Texts,
    max_items: Annotated[int, Field(ge=1, le=100, description="Only the first so many.")] = 100,
    operation_id: OperationId = None,
    timeout_seconds: BudgetSeconds = None,
) -> Answer:
    """Pattern: cancel with partial results. They belong to the operation, and not to the call.

    cancel_operation lets this call answer with what it has. A call that its client cancelled is
    never answered: read what it did with get_operation, or repeat it with its operation_id.
    """
    wanted = items[:max_items]
    answer = await run_batch_call(
        call,
        BatchRequest(
            operation=call.state.operations.find("hash"),
            items=wanted,
            operation_id=operation_id,
            timeout_seconds=timeout_seconds,
        ),
    )
    counts = answer.data["counts"]
    left = counts["cancelled"] + counts["not_started"]
    done, total = counts["total"] - left, counts["total"]
    cancellation: dict[str, Any] = {"was_cancelled": left > 0}
    if left:
        cancellation |= {"processed_before_cancel": done, "total_requested": total}
        cancellation |= {"remaining": left}
    else:
        cancellation |= {"processed": done, "total_requested": total}
    stopped = ["Operation was cancelled - returning partial results"] if left else []
    return replace(
        answer,
        data={**answer.data, "cancellation": cancellation},
        text=f"{answer.text}\ncancellation {json_line(cancellation)}".strip(),
        warnings=[*stopped, *answer.warnings],
    )


async def main_operation(
    call: Call, *, data: Annotated[dict[str, Any], Field(description="Any object.")]
) -> Answer:
    """Pattern: a request context. Tasks and threads of a call see it, without being given it."""
    seen: dict[str, dict[str, Any]] = {}

    async def nested_operation() -> None:
        seen["task"] = _context()

    async def nested_thread() -> None:
        seen["thread"] = await run_in_tool_thread(_context)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(nested_operation)
        nursery.start_soon(nested_thread)
    return Answer(
        summary="A child task and a thread saw the context of this call.",
        data={
            **_context(),
            "nested": {where: seen[where] for where in sorted(seen)},
            "result": await _hashed(call, json_line(data)),
        },
    )


def _context() -> dict[str, Any]:
    """Return what code of any depth sees of the request it works for."""
    request = current_request()
    assert request is not None
    return {
        "request_id": request.request_id,
        "client_id": request.client_id,
        "elapsed_ms": round(request.elapsed * 1000, 3),
    }


async def _hashed(call: Call, text: str, *, after: float = 0.0) -> dict[str, Any]:
    """Return the digest of a text, after a pause: one to see limits and deadlines at work."""
    await trio.sleep(after)
    if len(text) <= _SHORT_CHARS:
        content = encode_text(text)
        digest = Digest("sha256", sha256(content).hexdigest(), len(content), secure=True)
    else:
        limiter = call.state.limits_of("compute_hash").limiter
        digest = await run_in_tool_thread(partial(hash_text, text), limiter=limiter)
    return asdict(digest)


def _failure(outcome: Outcome[Any, Any]) -> dict[str, Any]:
    failure = outcome_failure(outcome)
    timed_out = isinstance(failure, TimedOut)
    return {
        "status": "timeout" if timed_out else "error",
        "error_code": failure.error_code,
        "error": failure.user_message,
    }


@asynccontextmanager
async def _databases(call: Call, name: str | None) -> AsyncGenerator[tuple[Databases, str]]:
    """Give the configured databases and the one to ask; where there are none, an empty one."""
    from trio_tools.database.databases import Databases  # noqa: PLC0415 - costs
    from trio_tools.database.results import DatabaseConfig  # noqa: PLC0415

    configured = call.state.services.databases
    if name is not None or configured.names:
        yield configured, name or configured.names[0]
        return
    with _empty_file() as path:
        empty = DatabaseConfig("empty", f"sqlite:///{path}")
        limiter = call.state.limits_of("query_database").limiter
        async with Databases([empty], limiter=limiter) as databases:
            yield databases, "empty"


@contextmanager
def _empty_file() -> Generator[Path]:
    """Give a file of no bytes, which SQLite takes for a database without tables."""
    with TemporaryDirectory(prefix="trio-tools-") as folder:
        path = Path(folder, "empty.db")
        path.touch()
        yield path


def _query_timed_out(call: Call, seconds: float) -> TimedOut:
    most = call.limits.declared.max_timeout_seconds
    longer = min(2 * seconds, most)
    retry = f"Retry with timeout_seconds={longer:g} or break" if longer > seconds else "Break it"
    return TimedOut(
        f"Query timed out after {seconds:g}s",
        remediation=f"{retry} into smaller queries",
        data={
            "timeout_seconds": seconds,
            "suggestion": "Consider increasing timeout or simplifying query",
            "maximum": most,
        },
    )


def _example(
    fn: Any,
    execution: str = "async",
    *,
    open_world: bool = False,
    time_argument: str = "timeout_seconds",
) -> Tool:
    return Tool(
        fn=fn,
        title=fn.__name__.replace("_", " ").capitalize(),
        execution=execution,
        annotations=ToolAnnotations(
            read_only_hint=True,
            open_world_hint=open_world,
        ),
        time_argument=time_argument,
        limited=False,  # each has limits of its own, which are what it shows
    )


PATTERNS: tuple[Tool, ...] = (
    _example(rate_limited_operation),
    _example(parallel_fetch, "async (I/O-bound)", open_world=True),
    _example(process_batch_streaming),
    _example(process_with_timeout, time_argument="timeout"),
    _example(
        query_with_timeout,
        "async over threads and worker processes; a cancel stops the statement",
    ),
    _example(cancellable_operation, "async over threads"),
    _example(main_operation),
)
