"""The pages of an operation: the outcomes that fit into one answer, and the cursor for the next.

Both forms of an answer, the text and the structured content, keep to `max_output_chars` each and
show the same outcomes: errors first, since failed items are always named, then results. A result
larger than a page is shown by its beginning and read in parts. Results are kept as JSON and only
those of a page are parsed, so the cost of a page depends on its content. Results that are not in
memory are read from the disk, a few at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from nursery_patterns import Report, Status
from trio_tools.answers.cursors import Cursors
from trio_tools.answers.errors import InvalidArgument, NotFound
from trio_tools.answers.json_values import json_bytes
from trio_tools.answers.texts import MARKERS_CHARS, Told, json_line, label_text, one_line
from trio_tools.operations.result import Piece, Result, text_of, value_of
from trio_tools.operations.stored_operation import StoredOperation
from trio_tools.tools.batches.outcomes import (
    AnyOutcome,
    Shown,
    failure_data,
    groups_of,
    lines_of,
    short_label,
)

OPERATION_MIME = "application/jsonl"

_START_CHARS = 1_000
# Characters of names and punctuation around each entry of the structured content.
_FRAME_CHARS = len('{"index":,"item":,"value":},')
_ERROR_FRAME_CHARS = len('{"index":,"item":,"status":"","error_code":"","reason":},')
# Characters of an answer beside its outcomes: the envelope, counts, timing, warnings, cursors.
_FIXED_CHARS = 1_500
# Minimum share for outcomes with a very small `max_output_chars`.
_LEAST_SHARE = 4
# Characters of one entry beside its value.
_LABEL_ROOM = 500
# Characters of an answer with a part of a result beside that part.
_PART_FIXED_CHARS = 1_000


@dataclass(frozen=True)
class ShownOutcomes:
    """The outcomes of a batch in its answer.

    Attributes:
        results: Succeeded items in input order, as many as fit.
        errors: Other items in input order, as many as fit into half of the answer.
        told: All of these as text, in input order.
        left_out: Number of outcomes that did not fit.
        cursor: Position for `get_operation`; None if everything fits.
    """

    results: list[dict[str, Any]]
    errors: list[dict[str, Any]]
    told: list[Told]
    left_out: int
    cursor: str | None


@dataclass(frozen=True)
class Page:
    """Some outcomes in input order, and the position of the next page; None at the end."""

    outcomes: list[dict[str, Any]]
    told: list[Told]
    cursor: str | None


@dataclass(frozen=True)
class Part:
    """A part of the JSON text of one large result; `cursor` leads to the next one."""

    index: int
    offset: int
    text: str
    total_chars: int
    cursor: str | None


def room_for_outcomes(max_chars: int) -> int:
    """Return how many characters of an answer outcomes may use, in either form."""
    return max(max_chars - _FIXED_CHARS, max_chars // _LEAST_SHARE)


def largest_whole_result(max_chars: int) -> int:
    """Return the largest result in bytes of JSON that is shown whole and not in parts."""
    return room_for_outcomes(max_chars) - min(_LABEL_ROOM, max_chars // _LEAST_SHARE // 2)


def operation_uri(operation_id: str, index: str | None = None) -> str:
    """Return the URI of an operation's resource, or of one of its outcomes."""
    parts = (operation_id,) if index is None else (operation_id, index)
    return f"operation://{'/'.join(quote(part, safe='') for part in parts)}"


class Pages:
    """The pages of one operation.

    Args:
        kept: The operation.
        cursors: Makes and checks cursors.
        max_chars: Limit of characters of one answer in either form.
    """

    def __init__(self, kept: StoredOperation, cursors: Cursors, max_chars: int) -> None:
        self._kept = kept
        self._cursors = cursors
        self._max_chars = max_chars
        self._room = room_for_outcomes(max_chars)

    async def that_fit(
        self,
        report: Report[Any, Result],
        most_results: int | None = None,
        most_errors: int | None = None,
    ) -> ShownOutcomes:
        """Return the outcomes that fit into the answer of a batch call, or at most so many.

        Raises:
            ToolFailure: A result cannot be read from the disk.
        """
        good = [o for o in report.outcomes if o.status is Status.SUCCEEDED]
        bad = [o for o in report.outcomes if o.status is not Status.SUCCEEDED]
        errors, used = await self._fitting(bad[:most_errors], self._room // 2)
        results, _ = await self._fitting(good[:most_results], self._room - used)
        cursor = None
        left_out = len(good) - len(results) + len(bad) - len(errors)
        if left_out:
            cursor = self._cursor(results=_next(good, results), errors=_next(bad, errors))
        shown = sorted(results + errors, key=_index)
        return ShownOutcomes(_data(results), _data(errors), lines_of(shown), left_out, cursor)

    async def read(self, cursor: str | None, page_size: int) -> Page | Part:
        """Return the page of a cursor, or the first page.

        Raises:
            InvalidArgument: The cursor is not of this operation.
            ToolFailure: A result cannot be read from the disk.
        """
        position = self._position(cursor)
        if "offset" in position:
            return await self._part(
                **{name: position[name] for name in ("index", "offset", "byte")}
            )
        starts = {True: position["results"], False: position["errors"]}
        wanted: list[AnyOutcome] = []
        for outcome in self._kept.batch.report().outcomes:
            start = starts[outcome.succeeded]
            if start is not None and outcome.index >= start:
                wanted.append(outcome)
                if len(wanted) > page_size:
                    break
        shown, _ = await self._fitting(wanted[:page_size], self._room)
        following = _next(wanted, shown)
        if following is None:
            return Page(_data(shown), lines_of(shown), None)
        later = {
            kind: None if start is None else max(start, following)
            for kind, start in (("results", starts[True]), ("errors", starts[False]))
        }
        return Page(_data(shown), lines_of(shown), self._cursor(**later))

    async def outcome(self, index: int, cursor: str | None) -> Page | Part:
        """Return one outcome; of a result larger than a page, a part of its JSON.

        Raises:
            InvalidArgument: The cursor is not of this outcome.
            ToolFailure: The result cannot be read from the disk.
            NotFound: The operation has no item with that index.
        """
        if cursor is not None:
            if self._position(cursor).get("index") != index:
                raise self._wrong_cursor()
            return await self.read(cursor, 1)
        outcomes = self._kept.batch.report().outcomes
        if index >= len(outcomes):
            raise NotFound(
                f"operation {self._kept.operation_id!r} has {len(outcomes)} items, so no index "
                f"{index}: give one from 0 to {len(outcomes) - 1}"
            )
        outcome = outcomes[index]
        if outcome.value is not None and outcome.value.is_large:
            return await self._part(index, 0, 0)
        (shown,), _ = await self._fitting([outcome], self._room)
        return Page([shown.data], [shown.told], None)

    async def _fitting(self, outcomes: Sequence[AnyOutcome], room: int) -> tuple[list[Shown], int]:
        """Take outcomes while they fit, at least one; return them and their size."""
        taken: list[Shown] = []
        used = 0
        for group in groups_of(outcomes, most_bytes=self._max_chars, largest=_START_CHARS * 4):
            for outcome, data in zip(group, await self._read(group), strict=True):
                entry = await self._entry(outcome, data)
                if taken and used + entry.size > room:
                    return taken, used
                taken.append(entry)
                used += entry.size
        return taken, used

    async def _read(self, outcomes: Sequence[AnyOutcome]) -> list[bytes]:
        """Return the results as JSON, of large ones the beginning; none for a failed item."""
        pieces = [
            Piece.chars(o.value, 0, self._start_chars) if o.value.is_large else Piece.whole(o.value)
            for o in outcomes
            if o.value is not None
        ]
        read = iter(await self._kept.read(pieces))
        return [b"" if o.value is None else next(read) for o in outcomes]

    async def _entry(self, outcome: AnyOutcome, data: bytes) -> Shown:
        result = outcome.value
        if result is None:
            return self._error(outcome)
        if not result.is_large:
            return self._result(outcome, data)
        return self._beginning(outcome, await self._kept.chars_of(result), data)

    def _error(self, outcome: AnyOutcome) -> Shown:
        label = short_label(self._kept.work.label_of(outcome.item))
        data = failure_data(self._kept, outcome, label)
        status, code, reason = data["status"], data["error_code"], data["reason"]
        named = f"[{outcome.index}] {label_text(label)}"
        line = f"{named} {status.replace('_', ' ')} {code}: {one_line(reason)}"
        quoted = _chars(json_bytes(label)) + _chars(json_bytes(reason))
        frame = _ERROR_FRAME_CHARS + len(str(outcome.index)) + len(status) + len(code)
        return Shown(data, Told(line), max(len(line) + 1, quoted + frame))

    def _result(self, outcome: AnyOutcome, text: bytes) -> Shown:
        index, label = outcome.index, short_label(self._kept.work.label_of(outcome.item))
        named = f"[{index}] {label_text(label)}"
        value = value_of(text)
        line, _, body = self._kept.work.text_of(value).partition("\n")
        told = Told(f"{named} {one_line(line)}", body)
        size = _chars(text) + _chars(json_bytes(label)) + _FRAME_CHARS + len(str(index))
        chars = len(told.line) + 1 + (len(body) + MARKERS_CHARS if body else 0)
        if chars > self._room:  # as JSON it fits
            told = Told(f"{named} {json_line(value)}")
            chars = len(told.line) + 1
        data = {"index": index, "item": label, "value": value}
        return Shown(data, told, max(size, chars))

    def _beginning(self, outcome: AnyOutcome, chars: int, data: bytes) -> Shown:
        """Return a result that is larger than a page, shown by its beginning."""
        index, label = outcome.index, short_label(self._kept.work.label_of(outcome.item))
        cursor = self._cursor(index=index, offset=0, byte=0)
        start = text_of(data, self._start_chars)
        value = {"truncated": True, "json_chars": chars, "json_start": start, "cursor": cursor}
        named = f"[{index}] {label_text(label)}"
        line = f'{named} {chars} characters of JSON, to be read with cursor="{cursor}":'
        size = max(
            len(line) + 1 + len(start) + MARKERS_CHARS,
            _chars(json_bytes({"index": index, "item": label, "value": value})) + 1,
        )
        return Shown({"index": index, "item": label, "value": value}, Told(line, start), size)

    @property
    def _start_chars(self) -> int:
        return min(_START_CHARS, self._max_chars // 2)

    async def _part(self, index: int, offset: int, byte: int) -> Part:
        """Return the part that begins at a character, which is at that byte."""
        outcomes = self._kept.batch.report().outcomes
        result = outcomes[index].value if index < len(outcomes) else None
        text = await self._fitting_part(result, byte) if result else ""
        if result is None or not result.is_large or not text:  # the id was reused since
            raise self._wrong_cursor()
        chars = await self._kept.chars_of(result)
        following, end = None, offset + len(text)
        if end < chars:
            byte += len(text.encode())
            following = self._cursor(index=index, offset=end, byte=byte)
        return Part(index, offset, text, chars, following)

    async def _fitting_part(self, result: Result, byte: int) -> str:
        """Return as much of the JSON from a byte on as fits, including escaped quotes."""
        room = self._max_chars
        if room > _PART_FIXED_CHARS * 10:  # a smaller budget is only for parts
            room -= _PART_FIXED_CHARS
        most = self._max_chars // 2
        (data,) = await self._kept.read([Piece.chars(result, byte, most)])
        text = text_of(data, most)
        size = _chars(json_bytes(text))
        return text if size <= room else text[: max(1, len(text) * room // (2 * size))]

    def _position(self, cursor: str | None) -> dict[str, Any]:
        if cursor is None:
            return {"results": 0, "errors": 0}
        position = self._cursors.decode(cursor)
        if position["id"] != self._kept.operation_id:
            raise self._wrong_cursor()
        return position

    def _wrong_cursor(self) -> InvalidArgument:
        return InvalidArgument(
            f"cursor belongs to another operation than {self._kept.operation_id!r}: give the "
            "operation_id that it came with, or no cursor to start from the beginning",
            error_code="INVALID_CURSOR",
        )

    def _cursor(self, **position: int | None) -> str:
        return self._cursors.encode({"id": self._kept.operation_id, **position})


def _chars(text: bytes) -> int:
    return len(text) if text.isascii() else len(text.decode())


def _index(shown: Shown) -> int:
    return shown.data["index"]


def _data(shown: Iterable[Shown]) -> list[dict[str, Any]]:
    return [one.data for one in shown]


def _next(outcomes: Sequence[AnyOutcome], shown: Sequence[Any]) -> int | None:
    """Return the index of the first outcome that was not shown; None if all were."""
    return outcomes[len(shown)].index if len(shown) < len(outcomes) else None
