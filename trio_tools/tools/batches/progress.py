"""Progress messages to the caller of a tool: rare, in order, and without delaying the work.

Each message contains everything since the previous one. A client that does not read delays only
the task that sends messages.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

import trio

from nursery_patterns import Counts
from trio_tools.answers.texts import json_line
from trio_tools.operations.stored_operation import StoredOperation
from trio_tools.tools.batches.outcomes import brief_data, progress_data, short_text
from trio_tools.tools.call import Call

_log = logging.getLogger("trio_tools")

# At most 19 messages per second, which leaves one for the last message, which is not delayed.
_INTERVAL_SECONDS = 0.055
# Seconds that the last message may delay the answer if the client does not read.
_LAST_SECONDS = 0.05


# Limit of items in flight whose progress a message shows.
_MAX_IN_FLIGHT = 10


class _Message(NamedTuple):
    """One message, and how many ended items and progress reports it includes."""

    done: float
    total: float | None
    text: str
    ended: int = 0
    reports: int = 0


_NOTHING = _Message(-1, None, "")


async def run_with_progress(call: Call, kept: StoredOperation) -> Callable[[], Awaitable[None]]:
    """Run the batch and report its progress; return a function that sends the last message.

    The last message is sent when all outcomes are committed, which the caller waits for anyway.

    The first line of a message has the operation id and the counts. Each further line is JSON: an
    item that ended since the previous message, in the form of an answer, or an item in flight
    that reported progress since then; of many, the latest. Items in flight count with their
    finished share.
    """
    progress = kept.batch.progress

    async def more_than(told: float) -> None:
        def is_news(counts: Counts) -> bool:
            return counts.done > told

        async def ended() -> None:
            await progress.wait_value(is_news)  # pyright: ignore[reportUnknownMemberType] - trio-util annotates it loosely

        if not kept.work.operation.takes_progress:
            await ended()
            return
        async with trio.open_nursery() as nursery:

            async def reported() -> None:
                while _done(kept) <= told:
                    await kept.timeline.report()
                nursery.cancel_scope.cancel(reason="an item told how far it is")

            nursery.start_soon(reported)
            await ended()
            nursery.cancel_scope.cancel(reason="an item has ended")

    async def settled() -> None:
        await call.state.store.settled(kept, patient=True)

    async def latest(told: _Message) -> _Message:
        return await _message_of(kept, told)

    async with _telling(call, latest, more_than, settled) as teller:
        await kept.batch.run()
    return teller.tell_last


@asynccontextmanager
async def paced_progress(call: Call) -> AsyncGenerator[Callable[[float, float | None, str], None]]:
    """Yield a function that reports progress: `tell(done, total, text)`, at any rate.

    It does not wait. The latest report is sent when a message is due, and at the end of the
    block, if more is done than in the previous message.
    """
    latest = _Latest()
    async with _telling(call, latest.get, latest.more_than) as teller:
        yield latest.tell
    await teller.tell_last()


class _Latest:
    """The latest report, and a way to wait for one with more done."""

    def __init__(self) -> None:
        self._message = _NOTHING
        self._changed = trio.Event()

    async def get(self, told: _Message) -> _Message:
        del told
        return self._message

    def tell(self, done: float, total: float | None, text: str) -> None:
        self._message = _Message(done, total, text)
        self._changed.set()

    async def more_than(self, told: float) -> None:
        while self._message.done <= told:
            self._changed = trio.Event()
            await self._changed.wait()


async def _nothing_to_wait_for() -> None:
    """Do nothing: the default for waiting for a commit of what is not stored."""


@asynccontextmanager
async def _telling(
    call: Call,
    latest: Callable[[_Message], Awaitable[_Message]],
    more_than: Callable[[float], Awaitable[None]],
    settled: Callable[[], Awaitable[None]] = _nothing_to_wait_for,
) -> AsyncGenerator[_Teller]:
    """Report changes to the caller during the block."""
    teller = _Teller(call, latest, more_than, settled)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(teller.tell_changes)
        yield teller
        nursery.cancel_scope.cancel(reason="the work is done")


class _Teller:
    """Sends the caller a message whenever more is done than in the previous one, rate-limited.

    Args:
        call: The call whose caller receives the messages.
        latest: Returns the current message, given the previous one.
        more_than: Waits until more is done than in that message.
        settled: Waits until the reported outcomes are committed.
    """

    def __init__(
        self,
        call: Call,
        latest: Callable[[_Message], Awaitable[_Message]],
        more_than: Callable[[float], Awaitable[None]],
        settled: Callable[[], Awaitable[None]],
    ) -> None:
        self._settled = settled
        self._call = call
        self._latest = latest
        self._more_than = more_than
        self._told = _NOTHING  # the last message: each next one reports more

    async def tell_changes(self) -> None:
        while True:
            await self._more_than(self._told.done)
            message = await self._latest(self._told)
            await self._settled()
            await self._tell(message)
            await trio.sleep(_INTERVAL_SECONDS)

    async def tell_last(self) -> None:
        """Send the rest to the caller, without waiting long for a client that does not read."""
        message = await self._latest(self._told)
        if message.done > self._told.done:
            with trio.move_on_after(_LAST_SECONDS):
                await self._settled()
                await self._tell(message)

    async def _tell(self, message: _Message) -> None:
        try:
            await self._call.report_progress(message.done, message.total, message.text)
        except Exception as error:  # noqa: BLE001 - the way to the caller is no part of the work
            _log.debug("progress of %s cannot be sent: %r", self._call.tool, error)
            self._told = _Message(sys.maxsize, None, "")
        else:
            self._told = message  # only now: after a cancel it must be sent again


def known_total(counts: Counts) -> int:
    """Return the number of items; of a growing source, the number known so far."""
    if counts.total is not None:
        return counts.total
    return counts.done + counts.cancelled + counts.not_started


def _done(kept: StoredOperation) -> float:
    """Return how many items have ended, plus the finished shares of those in flight."""
    return kept.batch.progress.value.done + kept.timeline.share()


async def _message_of(kept: StoredOperation, told: _Message) -> _Message:
    counts, work = kept.batch.progress.value, kept.work
    failed = counts.failed + counts.timed_out
    parts = [f"{kept.operation_id}: {counts.done} of {known_total(counts)} done"]
    if failed:
        parts.append(f"{failed} failed")
    if counts.done and work.last is not None:
        parts.append(f"last: {short_text(work.label_of(work.last))}")
    ended = [*reversed(kept.timeline.latest)][: counts.done - told.ended]
    lines = [", ".join(parts)]
    lines += [json_line(await brief_data(kept, outcome)) for outcome in reversed(ended)]
    reports = [each for each in kept.timeline.reports() if each.number > told.reports]
    lines += [json_line(progress_data(kept, each)) for each in reports[:_MAX_IN_FLIGHT]]
    number = reports[0].number if reports else told.reports
    return _Message(_done(kept), counts.total, "\n".join(lines), counts.done, number)
