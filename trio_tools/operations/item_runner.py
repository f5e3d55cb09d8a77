"""`Work`: an operation over the items of one batch, and the size of each result.

A failure is mapped to a message, and a result is converted to JSON and counted, in the step in
which its item ends. So the answer for a thousand items needs no long step, and an unexpected
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

# Bytes of an outcome beside its item and result: 200 as measured, and as much again for the
# checked form of the item.
_BYTES_PER_OUTCOME = 400
# Bytes of a failure beside its texts and data.
_BYTES_PER_FAILURE = 400
# JSON that is shorter cannot be nested too deeply, or have too many digits, to be parsed.
_MAYBE_UNREADABLE_BYTES = 400

# The operation whose item the current task runs.
_inside: ContextVar[str | None] = ContextVar("_inside", default=None)


def same_json(value: Any) -> str:
    """Return a text that is the same for equal JSON, regardless of the order of keys.

    For Python, false equals 0 and 1 equals 1.0; here they differ. Other types use their `repr`.
    """
    return json.dumps(value, sort_keys=True, default=repr)


class ItemRunner:
    """An operation over the items of one batch: `Batch(work.run, items)`.

    Args:
        operation: The operation on each item.
        items: The items as the caller gave them, JSON values; only their size is used.
        page_bytes: A larger result is read in parts.
        reserve: Called with the bytes of further items; raises if they do not fit.
        count: Called with the bytes of each result or failure, which are kept in any case.
        journal: Receives the events of the batch, and knows the item that the current task runs.
        timeline: Observes the batch, and receives the progress of its items.

    Attributes:
        operation: The operation on each item.
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
            ToolFailure: It failed, or returned a value that is not JSON.
        """
        _inside.set(self.operation.name)  # it stays set: the context belongs to a worker
        try:
            if isinstance(item, BadItem):
                item.fail()
            value = await self._call(item)
            text = self._keep(value)
            if len(text) <= self._page_bytes:
                return Result(text)
            # Megabytes are serialised in one step and counted in another; a finished result is
            # not lost.
            await trio.lowlevel.cancel_shielded_checkpoint()
            return Result(text, chars_of(text))
        except Exception as error:  # noqa: BLE001 - explained here, raised below
            failure = to_failure(error)
        finally:
            self.last = item
        # It may be kept for an hour, so it must not keep its frames and their objects.
        failure.__cause__ = failure.__context__ = failure.__traceback__ = None
        raise self._keep_failure(failure)

    async def _call(self, item: Any) -> Any:
        """Call the operation with the item and the further parameters that it declares."""
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
        """Reserve memory for further items.

        Args:
            count: Number of items.
            size: Their size in bytes.

        Raises:
            ToolFailure: They do not fit into the memory limit.
        """
        more = _BYTES_PER_OUTCOME * count + size
        self._reserve(more)
        self._grow(more)

    def restored(self, outcomes: Iterable[Outcome[Any, Result]]) -> None:
        """Count outcomes that were loaded from the store."""
        for outcome in outcomes:
            if outcome.value is None:
                self._grow(_BYTES_PER_FAILURE)
                continue
            self._grow(outcome.value.held_bytes)
            if outcome.value.json is None:
                self.let_go(outcome.value.held_bytes)

    def hold(self, size: int) -> None:
        """Count further bytes that are held beside items and results."""
        self._grow(size)

    def let_go(self, size: int) -> None:
        """Subtract results of so many bytes that are on the disk only from now on."""
        self.size -= size

    def _grow(self, size: int) -> None:
        self.size += size

    def label_of(self, item: Any) -> Any:
        """Return the name of an item for reports, as a JSON value.

        If the name cannot be computed, the item itself is quoted, so the result is not lost.
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
        """Return the text of a result. A result that cannot be rendered is shown as JSON."""
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
                # Too deep nesting, or a number with too many digits, could not be shown.
                value_of(text)
        except ValueError as error:
            raise ToolFailure(
                f"Operation {self.operation.name!r} returned a value that is not JSON ({error}): "
                "its author must return text, numbers, lists and objects.",
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
    return max(held_bytes(items), as_json)  # the estimate may miss a few large values among many


def refuse_inside_item(tool: str) -> None:
    """Refuse a tool call from inside an item of a batch, which could wait for itself.

    Raises:
        InvalidArgument: The current task, or one of its ancestors, runs an item.
    """
    operation = _inside.get()
    if operation is not None:
        raise InvalidArgument(
            f"operation {operation!r} called the tool {tool} from inside of a batch, which could "
            "wait for itself for ever: let the operation call the function that it needs, and "
            "give all items to one batch",
            error_code="NESTED_BATCH",
        )
