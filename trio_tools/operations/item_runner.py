"""`Work`: an operation over the items of one batch, and what each result takes.

A failure is explained, and a result turned into JSON and counted, in the step in which its item
ends. So the answer for a thousand items is put together without a long step, and an unexpected
error is logged once.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from typing import Any

import trio

from nursery_patterns import Outcome
from trio_tools.answers.error_mapping import to_failure
from trio_tools.answers.errors import InvalidArgument, ToolFailure, brief_repr
from trio_tools.answers.json_values import json_bytes
from trio_tools.answers.texts import json_line
from trio_tools.operations.durable.journal import ItemJournal
from trio_tools.operations.item_types import BadItem
from trio_tools.operations.memory_estimate import held_bytes
from trio_tools.operations.operation import Operation
from trio_tools.operations.result import BYTES_OBJECT_BYTES, Result, chars_of, value_of
from trio_tools.operations.timeline import Timeline

_log = logging.getLogger("trio_tools")

# What an outcome takes beside its item and result: 200 as measured, and as much again for what the
# item becomes when it is checked.
_BYTES_PER_OUTCOME = 400
# What a failure takes beside its texts and data.
_BYTES_PER_FAILURE = 400
# JSON that is shorter nests too little, and has too few digits, not to be read back.
_MAYBE_UNREADABLE_BYTES = 400

# The operation whose item the current task works on.
_inside: ContextVar[str | None] = ContextVar("_inside", default=None)


def same_json(value: Any) -> str:
    """Return a text that is the same for the same JSON, in whatever order a caller named things.

    To Python, false is 0 and 1 is 1.0; here they are not. What is no JSON is told by its `repr`.
    """
    return json.dumps(value, sort_keys=True, default=repr)


class ItemRunner:
    """An operation over the items of one batch: `Batch(work.run, items)`.

    Args:
        operation: What is done to each item.
        items: As the caller gave them, JSON values; only their size is of interest.
        page_bytes: A result of more bytes is read in parts.
        reserve: Called with the bytes of further items; raises if there is no room.
        count: Called with the bytes of each result or failure. It finished, so it is kept.
        journal: Hears from the batch, and knows which item the current task works on.
        timeline: Observes the batch, and is told how far its items are.

    Attributes:
        operation: What is done to each item.
        last: The item that ended last, or None.
        size: Bytes of memory that items, results and failures hold, about.
    """

    def __init__(
        self,
        operation: Operation,
        items: Sequence[Any],
        *,
        page_bytes: int,
        reserve: Callable[[int], None],
        count: Callable[[int], None],
        journal: ItemJournal | None = None,
        timeline: Timeline | None = None,
    ) -> None:
        self.operation = operation
        self._journal = journal
        self._timeline = timeline
        self.last: Any = None
        self.size = _BYTES_PER_OUTCOME * len(items) + _size_of(items)
        self._page_bytes = page_bytes
        self._reserve = reserve
        self._count_kept = count

    async def run(self, item: Any) -> Result:
        """Run the operation on one item.

        Raises:
            ToolFailure: It failed, or returned what is no JSON value.
        """
        _inside.set(self.operation.name)  # stays set: the context is that of a worker
        try:
            if isinstance(item, BadItem):
                item.fail()
            value = await self._call(item)
            text = self._keep(value)
            if len(text) <= self._page_bytes:
                return Result(text)
            # Megabytes are written in a step and counted in another; what is finished is not lost.
            await trio.lowlevel.cancel_shielded_checkpoint()
            return Result(text, chars_of(text))
        except Exception as error:  # noqa: BLE001 - explained here, raised below
            failure = to_failure(error)
        finally:
            self.last = item
        # Kept for an hour perhaps, so without the frames that it came through and their objects.
        failure.__cause__ = failure.__context__ = failure.__traceback__ = None
        raise self._keep_failure(failure)

    async def _call(self, item: Any) -> Any:
        """Call the operation, with what it asks for beside the item."""
        operation, journal, timeline = self.operation, self._journal, self._timeline
        options: dict[str, Any] = {}
        if operation.takes_progress and timeline is not None:
            options["report_progress"] = timeline.reporter(item)
        if (operation.takes_key or operation.at_most_once) and journal is not None:
            if operation.at_most_once:
                await journal.note_start()
            options["idempotency_key"] = journal.item_key
        return await operation.run(item, **options)

    def add_items(self, count: int, size: int) -> None:
        """Make room for further items.

        Args:
            count: How many.
            size: Bytes that they take.

        Raises:
            ToolFailure: There is no room.
        """
        more = _BYTES_PER_OUTCOME * count + size
        self._reserve(more)
        self._grow(more)

    def restored(self, outcomes: Iterable[Outcome[Any, Result]]) -> None:
        """Count outcomes that were brought back from where they were stored."""
        for outcome in outcomes:
            if outcome.value is None:
                self._grow(_BYTES_PER_FAILURE)
                continue
            self._grow(outcome.value.held_bytes)
            if outcome.value.json is None:
                self.let_go(outcome.value.held_bytes)

    def hold(self, size: int) -> None:
        """Count so many bytes more that are held beside items and results."""
        self._grow(size)

    def let_go(self, size: int) -> None:
        """Count results of so many bytes no more that are on the disk only from now on."""
        self.size -= size

    def _grow(self, size: int) -> None:
        self.size += size

    def label_of(self, item: Any) -> Any:
        """Return how an item is named in reports, as a JSON value.

        A name that cannot be had costs no result: the item is quoted instead.
        """
        if isinstance(item, BadItem):
            return item.label
        try:
            label = self.operation.label_of(item)
            json_bytes(label)
        except Exception as error:  # noqa: BLE001 - of the author of the operation
            _log.warning("operation %r cannot name an item: %r", self.operation.name, error)
            return brief_repr(item)
        return label

    def text_of(self, value: Any) -> str:
        """Return how a result reads. One that cannot be rendered is shown as JSON."""
        try:
            return self.operation.text_of(value)
        except Exception as error:  # noqa: BLE001 - of the author of the operation
            _log.warning("operation %r cannot render a result: %r", self.operation.name, error)
            return json_line(value)

    def _keep(self, value: Any) -> bytes:
        """Count a result; return it as JSON."""
        try:
            text = json_bytes(value)
            if _MAYBE_UNREADABLE_BYTES < len(text) <= self._page_bytes:
                value_of(text)  # nested too deep, or with too long a number, no page could show it
        except ValueError as error:
            raise ToolFailure(
                f"Operation {self.operation.name!r} returned what is no JSON value ({error}): its "
                "author must return text, numbers, lists and objects.",
                error_code="NOT_JSON",
            ) from None
        self._count(len(text) + BYTES_OBJECT_BYTES)
        return text

    def _keep_failure(self, failure: ToolFailure) -> ToolFailure:
        """Count a failure; return it."""
        told = [failure.message, failure.remediation, failure.data]
        self._count(_BYTES_PER_FAILURE + held_bytes(told))
        return failure

    def _count(self, size: int) -> None:
        self._grow(size)
        self._count_kept(size)


def _size_of(items: Sequence[Any]) -> int:
    try:
        as_json = len(json_bytes(items, fallback=repr))
    except ValueError as error:
        raise InvalidArgument(
            f"the items contain what is no text, such as a lone surrogate ({error}). Nothing was "
            "run: correct that and call again",
            error_code="NOT_TEXT",
        ) from None
    return max(held_bytes(items), as_json)  # few large values in many may be missed by the former


def refuse_inside_item(tool: str) -> None:
    """Refuse to call a tool while an item of a batch is worked on: it could wait for itself.

    Raises:
        InvalidArgument: The current task, or one that started it, works on an item.
    """
    operation = _inside.get()
    if operation is not None:
        raise InvalidArgument(
            f"operation {operation!r} called the tool {tool} from inside of a batch, which could "
            "wait for itself for ever: let the operation call the function that it needs, and "
            "give all items to one batch",
            error_code="NESTED_BATCH",
        )
