"""How a batch tells its caller how it goes: seldom, in order, and never at the batch's expense.

Counts only ever grow, so what happened since the last message is in the next one. A client that
does not read holds up the task that tells it, and nothing else.
"""

from __future__ import annotations

import logging
import sys

import trio

from nursery_patterns import Counts
from trio_tools.store import StoredOperation
from trio_tools.tools.call import Call
from trio_tools.tools.pages import short_text

_log = logging.getLogger("trio_tools")

# At most 19 messages in any second, which leaves one for the last that does not wait its turn.
_INTERVAL_SECONDS = 0.055
# How long the last message may hold up the answer if the client does not read.
_LAST_SECONDS = 0.05


async def run_with_progress(call: Call, kept: StoredOperation) -> None:
    """Run the batch and tell the caller how it goes. The first message names the operation id."""
    teller = _Teller(call, kept)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(teller.tell_changes)
        await kept.batch.run()
        nursery.cancel_scope.cancel(reason="the batch is done")
    await teller.tell_last()


class _Teller:
    def __init__(self, call: Call, kept: StoredOperation) -> None:
        self._call = call
        self._kept = kept
        self._told = -1  # items done by the last message: each next one says more

    async def tell_changes(self) -> None:
        progress = self._kept.batch.progress
        while True:
            counts = await progress.wait_value(self._is_news)  # pyright: ignore[reportUnknownMemberType] - trio-util annotates it loosely
            await self._tell(counts)
            await trio.sleep(_INTERVAL_SECONDS)

    async def tell_last(self) -> None:
        counts = self._kept.batch.progress.value
        if self._is_news(counts):
            with trio.move_on_after(_LAST_SECONDS):
                await self._tell(counts)

    def _is_news(self, counts: Counts) -> bool:
        return counts.done > self._told

    async def _tell(self, counts: Counts) -> None:
        try:
            await self._call.report_progress(counts.done, counts.total, self._line(counts))
        except Exception as error:  # noqa: BLE001 - the way to the caller is no part of the work
            _log.debug("progress of %s cannot be told: %r", self._kept.operation_id, error)
            self._told = sys.maxsize
        else:
            self._told = counts.done  # only now: cut before it left, it is still to be told

    def _line(self, counts: Counts) -> str:
        failed = counts.failed + counts.timed_out
        parts = [f"{self._kept.operation_id}: {counts.done} of {counts.total} done"]
        if failed:
            parts.append(f"{failed} failed")
        if counts.done and self._kept.work.last is not None:
            parts.append(f"last: {short_text(self._kept.work.label_of(self._kept.work.last))}")
        return ", ".join(parts)
