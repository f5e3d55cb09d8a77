"""One outcome as data and as lines, in the same form everywhere.

{"index": 0, "item": "a", "value": 1}
{"index": 1, "item": "b", "status": "failed", "error_code": "NOT_FOUND", "reason": "…"}
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

from nursery_patterns import Outcome
from trio_tools.answers.error_mapping import outcome_failure
from trio_tools.answers.json_values import json_bytes
from trio_tools.answers.texts import Told, label_text, one_line
from trio_tools.operations.result import Piece, Result, text_of, value_of
from trio_tools.operations.stored_operation import StoredOperation
from trio_tools.operations.timeline import ItemProgress

AnyOutcome = Outcome[Any, Result]

_MAX_LABEL_CHARS = 200
_MAX_REASON_CHARS = 400
# In a progress message, a result with more bytes of JSON is shown by its beginning.
_BRIEF_BYTES: Final = 200
_BRIEF_CHARS: Final = 100
_MOST_IN_GROUP = 500
# Up to this many adjacent items that did not start are listed one by one.
_MAX_SINGLE = 10


class Shown(NamedTuple):
    """One outcome in both forms.

    Attributes:
        data: `index`, `item` and `value`; without a result `index`, `item`, `status`,
            `error_code` and `reason`.
        told: The same as text.
        size: Characters of the longer form.
    """

    data: dict[str, Any]
    told: Told
    size: int


def failure_data(kept: StoredOperation, outcome: AnyOutcome, label: Any) -> dict[str, Any]:
    """Return an outcome without a result; `label` is the name of its item."""
    failure = outcome_failure(outcome, running=kept.running)
    return {
        "index": outcome.index,
        "item": label,
        "status": str(outcome.status),
        "error_code": str(failure.error_code),
        "reason": short_text(failure.user_message, _MAX_REASON_CHARS),
    }


def groups_of(
    outcomes: Iterable[AnyOutcome],
    *,
    most_bytes: int,
    largest: int | None = None,
    most: int = _MOST_IN_GROUP,
) -> Iterator[list[AnyOutcome]]:
    """Split outcomes into groups whose results are read together, at least one in each.

    Args:
        outcomes: In the requested order.
        most_bytes: Limit of bytes of results in a group.
        largest: Bytes to read of a large result; None for all.
        most: Limit of outcomes in a group.
    """
    group: list[AnyOutcome] = []
    size = 0
    for outcome in outcomes:
        result = outcome.value
        more = 0 if result is None else result.size
        if result is not None and result.is_large and largest is not None:
            more = largest
        if group and (size + more > most_bytes or len(group) == most):
            yield group
            group, size = [], 0
        group.append(outcome)
        size += more
    if group:
        yield group


async def brief_data(kept: StoredOperation, outcome: AnyOutcome) -> dict[str, Any]:
    """Return an outcome in a few hundred characters; a large result is shown by its beginning."""
    label = short_label(kept.work.label_of(outcome.item))
    result = outcome.value
    if result is None:
        return failure_data(kept, outcome, label)
    if result.size <= _BRIEF_BYTES:
        (data,) = await kept.read([Piece.whole(result)])
        value = value_of(data)
    else:
        (data,) = await kept.read([Piece.chars(result, 0, _BRIEF_CHARS)])
        start, chars = text_of(data, _BRIEF_CHARS), await kept.chars_of(result)
        value = {"truncated": True, "json_chars": chars, "json_start": start}
    return {"index": outcome.index, "item": label, "value": value}


def progress_data(kept: StoredOperation, told: ItemProgress) -> dict[str, Any]:
    """Return the progress of an item in flight, in a few hundred characters."""
    label = short_label(kept.work.label_of(told.item))
    how_far = {"progress": told.done, "total": told.total, "message": told.message}
    return {"index": told.index, "item": label, **how_far}


def lines_of(shown: Iterable[Shown]) -> list[Told]:
    """Return outcomes as entries of a text.

    A long run of items that did not start is one line with the first and the last one: they
    differ only in their names, which the caller knows.
    """
    told: list[Told] = []
    for run in _runs(list(shown)):
        if len(run) <= _MAX_SINGLE:
            told += [one.told for one in run]
            continue
        first, last = run[0].data, run[-1].data
        told.append(
            Told(
                f"[{first['index']}] {label_text(first['item'])} to "
                f"[{last['index']}] {label_text(last['item'])}: {len(run)} items not started "
                f"{first['error_code']}: {one_line(first['reason'])}"
            )
        )
    return told


def _runs(shown: Sequence[Shown]) -> Iterable[Sequence[Shown]]:
    """Split outcomes into runs of adjacent items that did not start, and single others."""
    start = 0
    for at, (one, following) in enumerate(pairwise(shown), 1):
        if not _alike(one.data, following.data):
            yield shown[start:at]
            start = at
    if shown:
        yield shown[start:]


def _alike(one: dict[str, Any], following: dict[str, Any]) -> bool:
    same = ("status", "error_code", "reason")
    return (
        one.get("status") == "not_started"
        and following["index"] == one["index"] + 1
        and all(one[name] == following.get(name) for name in same)
    )


def short_text(value: Any, limit: int = _MAX_LABEL_CHARS) -> str:
    """Return a text or JSON value as a text of at most `limit` characters."""
    text = value if isinstance(value, str) else json_bytes(value).decode()
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def short_label(label: Any) -> Any:
    """Return the name of an item; a long name is shortened to its beginning, as text."""
    if isinstance(label, int | float | None):
        return label
    text = label if isinstance(label, str) else json_bytes(label).decode()
    return label if len(text) <= _MAX_LABEL_CHARS else short_text(text)
