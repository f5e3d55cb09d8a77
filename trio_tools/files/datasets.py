"""Datasets read a chunk of items at a time, each chunk from where the last one ended.

Nothing is held open between chunks: a position says it all, so reading goes on after a cancel, in
another call, or in another process. Memory is bounded by the chunk, not by the dataset.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import trio

from trio_tools.answers.errors import InvalidArgument

if TYPE_CHECKING:
    from io import BufferedReader
    from pathlib import Path

    from trio_tools.files.roots import FileRoots

MAX_RECORD_BYTES = 1_000_000
MAX_CHUNK_BYTES = 8_000_000
_BOM = "\ufeff"
_POSITION_LENGTH = 20  # no file is longer, and no longer number can be sought


class DatasetKind(StrEnum):
    """How a dataset is cut into items."""

    JSON_LINES = "json_lines"
    """One JSON value per line; blank lines are none."""
    CSV = "csv"
    """One object of texts per record, named by the header. A `.tsv` file is cut at tabs."""
    FOLDER = "folder"
    """The path of each regular file in the folder itself, in order of name."""


_KIND_BY_SUFFIX = {
    ".jsonl": DatasetKind.JSON_LINES,
    ".ndjson": DatasetKind.JSON_LINES,
    ".csv": DatasetKind.CSV,
    ".tsv": DatasetKind.CSV,
}


@dataclass(frozen=True, slots=True)
class DatasetItem:
    """One item, or the reason why there is none where one should be."""

    number: int
    """The line on which it ends, from 1; in a folder its place in the chunk, from 1."""
    value: Any = None
    error: str | None = None
    """A sentence that names the line. None for a good item."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Items in the order of the dataset, and where to go on."""

    items: tuple[DatasetItem, ...]
    next_position: str | None
    """For the next `read_chunk`. None at the end of the dataset."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """A JSON-lines file, a CSV file or a folder, under the roots.

    Args:
        roots: What may be read.
        path: As for `FileRoots.resolve`.
        kind: None to tell it by the suffix `.jsonl`, `.ndjson`, `.csv` or `.tsv`, or by its being
            a folder.
    """

    roots: FileRoots
    path: str
    kind: DatasetKind | None = None

    def read_chunk(self, position: str | None = None, size: int = 50) -> Chunk:
        """Return up to `size` items from `position` on.

        Runs in a trio worker thread; a cancel ends it before the next item. A chunk also ends
        after `MAX_CHUNK_BYTES`. A bad record is an item with an `error`; reading goes on after it.

        Args:
            position: `next_position` of the chunk before; None for the beginning.
            size: Items, at least 1.

        Raises:
            Forbidden, NotFound: As `FileRoots.open_binary`.
            InvalidArgument: As `FileRoots.open_binary`; also an unknown kind, a position that is
                not one of this dataset, or a CSV file without a usable header or without an end
                to a record.
        """
        kind = self.kind or self._guess_kind()
        if kind is DatasetKind.FOLDER:
            return self._read_folder(position, size)
        with cast("BufferedReader", self.roots.open_binary(self.path)) as file:
            lines = _Lines(file)
            if kind is DatasetKind.JSON_LINES:
                lines.seek(_parse(position))
                return _take(_json_items(lines), lines, size)
            return _take(_csv_items(lines, _parse(position), self._delimiter), lines, size)

    @property
    def _delimiter(self) -> str:
        return "\t" if self.path.lower().endswith(".tsv") else ","

    def _guess_kind(self) -> DatasetKind:
        kind = _KIND_BY_SUFFIX.get(PurePath(self.path).suffix.lower())
        if kind is not None:
            return kind
        if self.roots.is_folder(self.path):
            return DatasetKind.FOLDER
        raise InvalidArgument(
            f"{self.path!r} is neither a folder nor named {', '.join(_KIND_BY_SUFFIX)}: "
            f"take one that is, or let the operator name it in the setting datasets, with its kind "
            f"({', '.join(DatasetKind)})",
            error_code="UNKNOWN_DATASET_KIND",
        )

    def _read_folder(self, position: str | None, size: int) -> Chunk:
        # One name more than asked for tells whether there is a next chunk.
        names = self.roots.list_folder(self.path, after=position or "", count=size + 1)
        folder = self.roots.resolve(self.path)
        items = tuple(_file_item(number, folder / n) for number, n in enumerate(names[:size], 1))
        return Chunk(items, names[size - 1] if len(names) > size else None)


def _file_item(number: int, path: Path) -> DatasetItem:
    raw = os.fsencode(path.name)  # Linux takes any bytes for a name, and JSON does not
    try:
        raw.decode()
    except UnicodeDecodeError:
        return DatasetItem(number, error=f"the file name {raw!r} is no text in UTF-8")
    return DatasetItem(number, str(path))


class _Position(NamedTuple):
    offset: int = 0
    """Bytes before the next line."""
    line: int = 0
    """Lines before the next line."""


def _parse(position: str | None) -> _Position:
    if position is None:
        return _Position()
    offset, colon, line = position.partition(":")
    if not (colon and offset.isdecimal() and line.isdecimal() and len(position) < _POSITION_LENGTH):
        raise _bad_position(position)
    return _Position(int(offset), int(line))


def _bad_position(position: str) -> InvalidArgument:
    return InvalidArgument(
        f"the place to go on from ({position!r}) is none of this dataset, or the file has changed "
        "since: leave it out to start from the beginning",
        error_code="BAD_POSITION",
    )


class _Lines(Iterator[str]):
    """The lines of a file as texts, with their line ends, and where the next one begins.

    An iterator, not a generator, because it goes on after it has raised for a bad line.
    """

    def __init__(self, file: BufferedReader) -> None:
        self._file = file
        self.position = _Position()
        self.record_start = 0
        """Offset. A record is refused when it gets longer than `MAX_RECORD_BYTES`."""

    def seek(self, position: _Position) -> None:
        """Go on at `position`, which must be the beginning of a line."""
        self._file.seek(max(position.offset - 1, 0))
        if position.offset and self._file.read(1) != b"\n":
            raise _bad_position(f"{position.offset}:{position.line}")
        self.position = position
        self.record_start = position.offset

    def at_end(self) -> bool:
        return not self._file.peek(1)

    def __next__(self) -> str:
        trio.from_thread.check_cancelled()
        raw = self._file.readline(MAX_RECORD_BYTES + 1)
        if not raw:
            raise StopIteration
        end = self.position.offset + len(raw)
        too_long = end - self.record_start > MAX_RECORD_BYTES
        while too_long and raw and not raw.endswith(b"\n"):
            trio.from_thread.check_cancelled()
            raw = self._file.readline(MAX_RECORD_BYTES)
            end += len(raw)
        first = self.position.line == 0
        self.position = _Position(end, self.position.line + 1)
        if too_long:
            raise ValueError(f"the record is longer than {MAX_RECORD_BYTES:,} bytes")
        text = raw.decode()
        return text.removeprefix(_BOM) if first else text


def _take(items: Iterator[DatasetItem], lines: _Lines, size: int) -> Chunk:
    start = lines.position.offset
    taken: list[DatasetItem] = []
    for item in items:
        taken.append(item)
        if len(taken) == size or lines.position.offset - start > MAX_CHUNK_BYTES:
            break
    at = lines.position
    return Chunk(tuple(taken), None if lines.at_end() else f"{at.offset}:{at.line}")


def _read_item(lines: _Lines, read: Callable[[], Any]) -> DatasetItem:
    lines.record_start = lines.position.offset
    try:
        value = read()
    except (ValueError, RecursionError, csv.Error) as error:
        number = lines.position.line
        return DatasetItem(number, error=f"line {number}: {error}")
    return DatasetItem(lines.position.line, value)


def _json_items(lines: _Lines) -> Iterator[DatasetItem]:
    while not lines.at_end():
        item = _read_item(lines, lambda: _json_value(next(lines)))
        if item.value is not _BLANK:
            yield item


_BLANK = object()


def _json_value(line: str) -> Any:
    if not line.strip():
        return _BLANK
    try:
        value = json.loads(line.rstrip())
        if "\\u" in line:  # an escape can stand for half of a character, which is no text
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:  # its own words would say "line 1" of every line
        raise ValueError(f"{error.msg} at column {error.colno}") from error
    except UnicodeEncodeError as error:
        raise ValueError("it contains half of a character (a lone surrogate)") from error
    return value


def _csv_items(lines: _Lines, position: _Position, delimiter: str) -> Iterator[DatasetItem]:
    records = csv.reader(lines, delimiter=delimiter, strict=True)
    header = _read_item(lines, lambda: next(records, list[str]()))
    names = _check_header(header)
    if position.offset:
        lines.seek(position)
    while not lines.at_end():
        item = _read_item(lines, lambda: _csv_value(names, next(records)))
        if item.value is not _BLANK:
            yield item


def _check_header(header: DatasetItem) -> list[str]:
    names: list[str] = header.value or []
    if header.error or not names or len(set(names)) < len(names):
        raise InvalidArgument(
            "the first line of a CSV file must name its columns, each one differently: "
            f"found {header.error or names!r}",
            error_code="BAD_HEADER",
        )
    return names


def _csv_value(names: list[str], fields: list[str]) -> Any:
    if not fields:
        return _BLANK
    if len(fields) != len(names):
        raise ValueError(f"the record has {len(fields)} fields, the header names {len(names)}")
    return dict(zip(names, fields, strict=True))
