"""Checks of the arguments of `Batch`, made with it: a wrong call fails where it is written."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Hashable, Iterable
from typing import Any, TypeVar

import trio

from nursery_patterns._arguments import (
    check_async_function,
    check_count,
    check_instance,
    check_items,
    check_seconds,
)
from nursery_patterns._frontier import Frontier
from nursery_patterns._key_limits import KeyLimits
from nursery_patterns._observer import Journal
from nursery_patterns._outcomes import Outcome, Status
from nursery_patterns._retry import Retry
from nursery_patterns._token_bucket import TokenBucket

ItemT = TypeVar("ItemT")
ValueT = TypeVar("ValueT")

_CALL = "Batch({fn}, items, limit=10)"


def check_work(
    fn: Callable[[ItemT], Awaitable[Any]],
    items: Iterable[ItemT] | AsyncIterable[ItemT] | Frontier[ItemT],
) -> None:
    """Refuse a function that is not async, and items that cannot be iterated over.

    Raises:
        TypeError: With the corrected call.
    """
    check_async_function(fn, call=_CALL)
    if not isinstance(items, Frontier):
        check_items(items, call="Batch(fn, [item])")


def check_limits(limit: int, limiter: object, bucket: object) -> None:
    """Refuse limits of the wrong type, and a limit below 1.

    Raises:
        TypeError: With the corrected call.
        ValueError: `limit` is below 1.
    """
    check_count("limit", limit, call="Batch(fn, items, limit=10)")
    if limiter is not None:
        call = "Batch(fn, items, limiter=trio.CapacityLimiter(10))"
        check_instance("limiter", limiter, trio.CapacityLimiter, call=call)
    if bucket is not None:
        paced = "Batch(fn, items, bucket=TokenBucket(rate=5, capacity=5))"
        check_instance("bucket", bucket, TokenBucket, call=paced)


def retry_policy(
    retry: Retry | None, total_timeout: float | None
) -> tuple[Retry | None, float | None]:
    """Return the retry policy in force, and the seconds for all attempts of an item.

    Raises:
        TypeError: `retry` is not a `Retry`, or `total_timeout` is not a number.
        ValueError: `total_timeout` is not above 0.
    """
    if retry is not None:
        check_instance("retry", retry, Retry, call="Batch(fn, items, retry=Retry(attempts=3))")
    if total_timeout is None:
        return retry, None if retry is None else retry.total_timeout
    call = "Batch(fn, items, total_timeout=60)"
    return retry or Retry(attempts=1), check_seconds("total_timeout", total_timeout, call=call)


def stored_outcomes(
    journal: Journal[ItemT, ValueT], total: int | None
) -> list[Outcome[ItemT, ValueT]]:
    """Return the outcomes that a journal has stored.

    Raises:
        ValueError: An outcome belongs to no item of this batch, or to an item that did not end.
    """
    outcomes = list(journal.outcomes())
    for outcome in outcomes:
        if outcome.status in {Status.CANCELLED, Status.NOT_STARTED}:
            raise ValueError(
                f"the journal has item {outcome.index} as {outcome.status}: leave it out of "
                "outcomes(), and the batch runs it"
            )
        if outcome.index < 0 or (total is not None and outcome.index >= total):
            raise ValueError(
                f"the journal has an outcome of item {outcome.index}, and there are {total} items: "
                "it is the journal of another batch"
            )
    return outcomes


def key_limits(
    key: Callable[[ItemT], Hashable] | None,
    limit: int | None,
    bucket: TokenBucket | Callable[[Any], TokenBucket] | None,
) -> KeyLimits[ItemT] | None:
    call = "Batch(fn, items, key=host_of, limit_per_key=2)"
    if limit is not None:
        check_count("limit_per_key", limit, call=call)
    if bucket is not None and not callable(bucket):
        paced = "Batch(fn, items, key=host_of, bucket_per_key=TokenBucket(rate=5, capacity=5))"
        check_instance("bucket_per_key", bucket, TokenBucket, call=paced)
    if limit is None and bucket is None:
        if key is None:
            return None
        raise TypeError(f"key needs a limit_per_key or a bucket_per_key: write {call}")
    if not callable(key):
        raise TypeError(f"key must be a function of an item, got {key!r}: write {call}")
    return KeyLimits(key, limit, bucket)


def seconds_per_item(value: float | None, *, call: str) -> float | None:
    return None if value is None else check_seconds("item_timeout", value, call=call)
