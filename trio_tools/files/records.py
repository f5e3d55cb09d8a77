"""Types of datasets: items, chunks, and the position from which reading continues."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

from trio_tools.answers.errors import InvalidArgument

MAX_CHUNK_BYTES = 8_000_000


class DatasetItem(NamedTuple):
    """One item, or the reason why it could not be read."""

    number: int
    """The line on which it ends, from 1; in a folder its position in the chunk, from 1; in a
    table its row, from 1."""
    value: Any = None
    error: str | None = None
    """A sentence that names the line. None for a good item."""
    source: str | None = None
    """The name of its file, if the dataset has several files."""


new_item: Callable[[tuple[int, Any, None, None]], DatasetItem] = partial(
    cast("Any", tuple).__new__, DatasetItem
)
"""Makes the item of a good record from all four fields, in a third of the constructor's time."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Items in the order of the dataset, and the next position."""

    items: tuple[DatasetItem, ...]
    next_position: str | None
    """The position for the next `read_chunk`. None at the end of the dataset."""
    warnings: tuple[str, ...] = ()
    """Guesses about the dataset, and the cost of continuing."""


class Part(NamedTuple):
    """Items of one file, and the next position in it."""

    items: list[DatasetItem]
    next_position: str | None
    size: int
    """Number of bytes read for them."""
    warnings: tuple[str, ...] = ()


def bad_position(position: str) -> InvalidArgument:
    """Return the error for a position that is not in this dataset."""
    return InvalidArgument(
        f"the place to go on from ({position!r}) is not in this dataset, or the file has changed "
        "since: leave it out to start from the beginning",
        error_code="BAD_POSITION",
    )


def too_long(line: int) -> DatasetItem:
    """Return the item for a record above the size bound, which ends on `line`."""
    return DatasetItem(line, error=f"line {line}: the record is longer than 1,000,000 bytes")
