"""`run_batch` and `stream_batch`: a few lines over `Batch`."""

from __future__ import annotations

import difflib
import math
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Hashable,
    Iterable,
    Sequence,
)
from contextlib import asynccontextmanager
from typing import Any, Literal, TypedDict, TypeVar, Unpack

import trio

from nursery_patterns._arguments import check_in_trio, check_seconds
from nursery_patterns._batch import Batch, OutcomeStream
from nursery_patterns._frontier import Frontier
from nursery_patterns._limiter import AnyLimiter
from nursery_patterns._observer import Journal, Observer
from nursery_patterns._outcomes import Report
from nursery_patterns._retry import Retry
from nursery_patterns._token_bucket import TokenBucket

ItemT = TypeVar("ItemT")
ValueT = TypeVar("ValueT")


class BatchOptions(TypedDict, total=False):
    """The keyword arguments of `Batch`, passed through by `run_batch` and `stream_batch`."""

    limit: int
    limiter: AnyLimiter | None
    item_timeout: float | None
    total_timeout: float | None
    retry: Retry | None
    bucket: TokenBucket | None
    key: Callable[[Any], Hashable] | None
    limit_per_key: int | None
    bucket_per_key: TokenBucket | Callable[[Any], TokenBucket] | None
    on_error: Literal["collect", "cancel"]
    journal: Journal[Any, Any] | None
    observer: Observer[Any, Any] | Sequence[Observer[Any, Any]] | None
    name: str | None


async def run_batch(
    fn: Callable[[ItemT], Awaitable[ValueT]],
    items: Iterable[ItemT] | AsyncIterable[ItemT] | Frontier[ItemT],
    *,
    timeout: float | None = None,  # noqa: ASYNC109 - it answers with a report, not with an error
    **options: Unpack[BatchOptions],
) -> Report[ItemT, ValueT]:
    """Run an async function over many items, a bounded number at a time, and report.

    Args:
        fn: Async function of one item; its exceptions become outcomes.
        items: Any iterable or async iterable, read lazily and in order.
        timeout: Seconds for the whole batch, 0 or more. At that deadline the items in flight are
            cancelled, and the report names the missing items.
        **options: As for `Batch`.

    Returns:
        A report with one outcome per item, in input order. A cancel from outside raises
        `Cancelled`, so nothing is returned. If partial results must survive that, use `Batch`.

    Raises:
        ExceptionGroup: An item failed with `on_error="cancel"`, or the source raised.
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of its bounds.
    """
    seconds = math.inf
    if timeout is not None:
        seconds = check_seconds(
            "timeout", timeout, call="run_batch(fn, items, timeout=30)", zero=True
        )
    check_in_trio("run_batch()")
    batch = _batch_for("run_batch", fn, items, options)
    with trio.move_on_after(seconds):
        await batch.run()
    return batch.report()


@asynccontextmanager
async def stream_batch(
    fn: Callable[[ItemT], Awaitable[ValueT]],
    items: Iterable[ItemT] | AsyncIterable[ItemT] | Frontier[ItemT],
    *,
    ordered: bool = False,
    **options: Unpack[BatchOptions],
) -> AsyncGenerator[OutcomeStream[ItemT, ValueT]]:
    """Run an async function over many items and yield each outcome when it is available.

    Usage::

        async with stream_batch(fetch, urls, limit=10) as outcomes:
            async for outcome in outcomes:
                ...

    At most `limit` outcomes wait for the consumer. Leaving the block cancels the remaining items.

    Args:
        fn: Async function of one item; its exceptions become outcomes.
        items: Any iterable or async iterable, also an endless one; read lazily and in order.
        ordered: Yield in input order instead of as they complete.
        **options: As for `Batch`.

    Raises:
        ExceptionGroup: As `Batch.stream`.
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of its bounds.
    """
    check_in_trio("stream_batch()")
    batch = _batch_for("stream_batch", fn, items, options)
    async with batch.stream(ordered=ordered) as outcomes:
        yield outcomes


def _batch_for(
    caller: str,
    fn: Callable[[ItemT], Awaitable[ValueT]],
    items: Iterable[ItemT] | AsyncIterable[ItemT] | Frontier[ItemT],
    options: BatchOptions,
) -> Batch[ItemT, ValueT]:
    """Make the batch. Errors in its arguments are reported in terms of the function called."""
    known = BatchOptions.__annotations__
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"it takes {', '.join(sorted(known))}"
            raise TypeError(f"{caller}() got an unexpected keyword argument {name!r}: {hint}")
    try:
        return Batch(fn, items, **options)
    except (TypeError, ValueError) as error:
        message = str(error)
        if type(error) not in {TypeError, ValueError} or "Batch(" not in message:
            raise
        raise type(error)(message.replace("Batch(", f"{caller}(")) from None
