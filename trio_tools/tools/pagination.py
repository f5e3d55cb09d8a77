"""What of an operation fits into one answer, and where the next one begins.

Every answer keeps to `max_output_chars`: errors first, since failed items are always named, then
results. A result that is larger than a page by itself is shown by its beginning and read on in
parts. Results are kept as JSON and only those that a page shows are parsed, so a page costs what it
shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from nursery_patterns import Outcome, Report, Status
from trio_tools.answers.cursors import Cursors
from trio_tools.answers.error_mapping import outcome_failure
from trio_tools.answers.errors import InvalidArgument
from trio_tools.operations.item_runner import Result, json_bytes
from trio_tools.operations.store import StoredOperation

_MAX_LABEL_CHARS = 200
_MAX_REASON_CHARS = 400
_START_CHARS = 1_000
# Names and punctuation around each entry.
_FRAME_CHARS = 100

_Outcome = Outcome[Any, Any]


@dataclass(frozen=True)
class Digest:
    """The outcomes of a batch as its answer shows them.

    Attributes:
        results: Of the items that succeeded, in input order, as many as fit.
        errors: Of the others, in input order, as many as fit into half of the answer.
        left_out: Outcomes that did not fit.
        cursor: Where `get_operation` goes on; None if nothing was left out.
    """

    results: list[Any]
    errors: list[dict[str, Any]]
    left_out: int
    cursor: str | None


@dataclass(frozen=True)
class Page:
    """Some outcomes in input order, and where the next page begins; None at the end."""

    outcomes: list[dict[str, Any]]
    cursor: str | None


@dataclass(frozen=True)
class Part:
    """A part of the JSON text of one large result; `cursor` leads to the next one."""

    index: int
    offset: int
    text: str
    total_chars: int
    cursor: str | None


class Pages:
    """The pages of one operation.

    Args:
        kept: The operation.
        cursors: Make and check page marks.
        max_chars: Most characters of one page.
    """

    def __init__(self, kept: StoredOperation, cursors: Cursors, max_chars: int) -> None:
        self._kept = kept
        self._cursors = cursors
        self._max_chars = max_chars

    def digest(self, report: Report[Any, Result]) -> Digest:
        """Return what fits into the answer of a batch call."""
        good = [o for o in report.outcomes if o.status is Status.SUCCEEDED]
        bad = [o for o in report.outcomes if o.status is not Status.SUCCEEDED]
        half = self._max_chars // 2
        errors, used = _fitting(map(self._error, bad), half)
        results, _ = _fitting(map(self._result, good), self._max_chars - used)
        cursor = None
        left_out = len(good) - len(results) + len(bad) - len(errors)
        if left_out:
            cursor = self._cursor(results=_next(good, results), errors=_next(bad, errors))
        return Digest(results, errors, left_out, cursor)

    def read(self, cursor: str | None, page_size: int) -> Page | Part:
        """Return what a cursor leads to, or the first page.

        Raises:
            InvalidArgument: The cursor was not given out for this operation.
        """
        position = self._position(cursor)
        if "offset" in position:
            return self._part(**{name: position[name] for name in ("index", "offset", "byte")})
        starts = {True: position["results"], False: position["errors"]}
        wanted: list[_Outcome] = []
        for outcome in self._kept.batch.report().outcomes:
            start = starts[outcome.succeeded]
            if start is not None and outcome.index >= start:
                wanted.append(outcome)
                if len(wanted) > page_size:
                    break
        shown, _ = _fitting(map(self._entry, wanted[:page_size]), self._max_chars)
        following = _next(wanted, shown)
        if following is None:
            return Page(shown, None)
        later = {
            kind: None if start is None else max(start, following)
            for kind, start in (("results", starts[True]), ("errors", starts[False]))
        }
        return Page(shown, self._cursor(**later))

    def _entry(self, outcome: _Outcome) -> tuple[dict[str, Any], int]:
        entry: dict[str, Any] = {"index": outcome.index, "status": str(outcome.status)}
        if not outcome.succeeded:
            error, size = self._error(outcome)
            return entry | error, size
        label = _short(self._kept.work.label_of(outcome.item))
        result, size = self._result(outcome)
        return entry | {"item": label, "result": result}, size + _MAX_LABEL_CHARS

    def _error(self, outcome: _Outcome) -> tuple[dict[str, Any], int]:
        failure = outcome_failure(outcome, running=self._kept.running)
        label = _short(self._kept.work.label_of(outcome.item))
        reason = short_text(failure.user_message, _MAX_REASON_CHARS)
        error = {"item": label, "reason": reason, "error_code": str(failure.error_code)}
        return error, len(str(label)) + len(reason) + _FRAME_CHARS

    def _result(self, outcome: _Outcome) -> tuple[Any, int]:
        result = outcome.value
        assert result is not None
        if result.chars is None:
            return result.value(), len(result.json)
        beginning = {
            "truncated": True,
            "json_chars": result.chars,
            "json_start": result.part(0, min(_START_CHARS, self._max_chars // 2)),
            "cursor": self._cursor(index=outcome.index, offset=0, byte=0),
        }
        return beginning, _START_CHARS * 2 + _FRAME_CHARS

    def _part(self, index: int, offset: int, byte: int) -> Part:
        """Return the part that begins at a character, which begins at that byte."""
        outcomes = self._kept.batch.report().outcomes
        result = outcomes[index].value if index < len(outcomes) else None
        # Quotes and backslashes double when the text is sent as JSON.
        text = result.part(byte, self._max_chars // 2) if result else ""
        if result is None or result.chars is None or not text:  # the id was used anew since
            raise self._wrong_cursor()
        following, end = None, offset + len(text)
        if end < result.chars:
            byte += len(text.encode())
            following = self._cursor(index=index, offset=end, byte=byte)
        return Part(index, offset, text, result.chars, following)

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


def short_text(value: Any, limit: int = _MAX_LABEL_CHARS) -> str:
    """Return a text or JSON value as a text of at most `limit` characters."""
    text = value if isinstance(value, str) else json_bytes(value).decode()
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _short(label: Any) -> Any:
    if isinstance(label, int | float | None):
        return label
    text = label if isinstance(label, str) else json_bytes(label).decode()
    return label if len(text) <= _MAX_LABEL_CHARS else short_text(text)


def _fitting(entries: Iterable[tuple[Any, int]], room: int) -> tuple[list[Any], int]:
    """Take entries while there is room for them, at least one; return them and what they take."""
    taken: list[Any] = []
    used = 0
    for entry, size in entries:
        if taken and used + size > room:
            break
        taken.append(entry)
        used += size
    return taken, used


def _next(outcomes: Sequence[_Outcome], shown: Sequence[Any]) -> int | None:
    """Return the index of the first outcome that was not shown, None if all were."""
    return outcomes[len(shown)].index if len(shown) < len(outcomes) else None
