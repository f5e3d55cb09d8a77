"""Rows of Parquet, Arrow and Excel files, in a worker process.

Large libraries read these formats, and a few kilobytes of a hostile file can request gigabytes.
So they run in a worker process with a memory limit, which a cancel kills.
The worker opens the file through the roots itself.
"""

from __future__ import annotations

import datetime as dt
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from trio_tools.answers.errors import InvalidArgument, ToolFailure, UpstreamFailed
from trio_tools.files.csv_header import distinct_names
from trio_tools.files.records import MAX_CHUNK_BYTES, DatasetItem, Part, bad_position

if TYPE_CHECKING:
    from trio_tools.files.roots import FileRoots

WORKER_MEMORY_BYTES = 2**30
WORKER_CPU_SECONDS = 120.0
_MAX_FIELD_BYTES = 1_000_000
_MODULES = {"parquet": "pyarrow", "arrow": "pyarrow", "excel": "python_calamine"}
_EXTRAS = {"parquet": "parquet", "arrow": "parquet", "excel": "excel"}


def check_installed(kind: str) -> None:
    """Refuse a kind whose library is not installed.

    Raises:
        UpstreamFailed: It is not installed; the message says what to install.
    """
    if find_spec(_MODULES[kind]) is None:
        raise UpstreamFailed(
            f"datasets of the kind {kind} need a library that is not installed",
            error_code="EXTRA_NOT_INSTALLED",
            remediation=f"The operator runs: pip install trio-tools[{_EXTRAS[kind]}]",
        )


def read_table_file(
    roots: FileRoots, path: str, kind: str, position: str | None, size: int
) -> Part:
    """Return up to `size` rows, starting at `position`. Runs in a worker process.

    A position is a group (a row group of Parquet, a batch of Arrow, a sheet of Excel), a row in
    it, and the number of rows before the group. Continuing reads at most one group again.

    Raises:
        ToolFailure: As `Dataset.read_chunk`; `BAD_FILE` for a file that is not of its kind.
    """
    group, row, before = _parse(position)
    with roots.open_binary(path) as file:
        try:
            reader = _OPEN[kind](file)
            return _take(reader, group, row, before, size)
        except (ToolFailure, MemoryError):
            raise
        except Exception as error:
            raise InvalidArgument(
                f"{path!r} is not a readable {kind} file ({_one_line(error)}): check it",
                error_code="BAD_FILE",
            ) from error


def _take(reader: _Reader, group: int, row: int, before: int, size: int) -> Part:
    if group > reader.groups:
        raise bad_position(f"{group}:{row}:{before}")
    items: list[DatasetItem] = []
    used = 0
    while group < reader.groups:
        seen = row
        for values in reader.rows(group, row):
            seen += 1
            number = before + seen
            record = {name: _json_value(value) for name, value in values.items()}
            cost = sum(len(value) for value in record.values() if isinstance(value, str)) + 50
            used += cost
            items.append(
                DatasetItem(number, record)
                if cost <= _MAX_FIELD_BYTES
                else DatasetItem(
                    number, error=f"row {number}: the record is longer than 1,000,000 bytes"
                )
            )
            if len(items) == size or used > MAX_CHUNK_BYTES:
                return Part(items, reader.next_position(group, seen, before), used)
        before += seen
        group, row = group + 1, 0
    return Part(items, None, used)


def _parse(position: str | None) -> tuple[int, int, int]:
    if position is None:
        return 0, 0, 0
    parts = position.split(":")
    if len(parts) != 3 or not all(part.isdecimal() and len(part) < 20 for part in parts):  # noqa: PLR2004
        raise bad_position(position)
    group, row, before = map(int, parts)
    return group, row, before


class _Reader(ABC):
    """The groups of one file."""

    groups: int

    @abstractmethod
    def rows(self, group: int, row: int) -> Iterator[dict[str, Any]]:
        """Yield the rows of a group, starting at `row`."""

    @abstractmethod
    def count(self, group: int) -> int:
        """Return the number of rows of a group."""

    def next_position(self, group: int, row: int, before: int) -> str | None:
        """Return the next position; None at the end."""
        while group < self.groups and row >= self.count(group):
            before += row
            group, row = group + 1, 0
        return None if group >= self.groups else f"{group}:{row}:{before}"


class _Parquet(_Reader):
    def __init__(self, file: BinaryIO) -> None:
        arrow = _arrow()
        parquet: Any = import_module("pyarrow.parquet")
        self._file = parquet.ParquetFile(
            arrow.PythonFile(file, mode="r"), pre_buffer=False, memory_map=False
        )
        self.groups = self._file.num_row_groups
        self._names = distinct_names([str(name) for name in self._file.schema_arrow.names])

    def count(self, group: int) -> int:
        return self._file.metadata.row_group(group).num_rows

    def rows(self, group: int, row: int) -> Iterator[dict[str, Any]]:
        batches = self._file.iter_batches(batch_size=256, row_groups=[group], use_threads=False)
        return _batch_rows(batches, row, self._names)


class _Arrow(_Reader):
    def __init__(self, file: BinaryIO) -> None:
        arrow = _arrow()
        ipc: Any = import_module("pyarrow.ipc")
        self._file = ipc.open_file(arrow.PythonFile(file, mode="r"))
        self.groups = self._file.num_record_batches
        self._names = distinct_names([str(name) for name in self._file.schema.names])

    def count(self, group: int) -> int:
        return self._file.get_batch(group).num_rows

    def rows(self, group: int, row: int) -> Iterator[dict[str, Any]]:
        return _batch_rows(iter([self._file.get_batch(group)]), row, self._names)


class _Excel(_Reader):
    def __init__(self, file: BinaryIO) -> None:
        calamine: Any = import_module("python_calamine")
        self._book = calamine.load_workbook(file)
        self._sheets = [
            sheet.name for sheet in self._book.sheets_metadata if "Work" in str(sheet.typ)
        ]
        self.groups = len(self._sheets)
        self._loaded: tuple[int, list[list[Any]]] | None = None

    def count(self, group: int) -> int:
        return max(0, len(self._sheet(group)) - 1)

    def rows(self, group: int, row: int) -> Iterator[dict[str, Any]]:
        sheet = self._sheet(group)
        if not sheet:
            return
        names = distinct_names([str(cell) for cell in sheet[0]])
        for cells in islice(sheet, row + 1, None):
            yield {
                name: None if cell == "" else cell for name, cell in zip(names, cells, strict=False)
            }

    def _sheet(self, group: int) -> list[list[Any]]:
        if self._loaded is None or self._loaded[0] != group:
            sheet = self._book.get_sheet_by_name(self._sheets[group])
            self._loaded = (group, sheet.to_python(skip_empty_area=True))
        return self._loaded[1]


_OPEN: dict[str, type[Any]] = {"parquet": _Parquet, "arrow": _Arrow, "excel": _Excel}


def _arrow() -> Any:
    arrow: Any = import_module("pyarrow")
    arrow.set_cpu_count(1)
    return arrow


def _batch_rows(batches: Iterator[Any], row: int, names: list[str]) -> Iterator[dict[str, Any]]:
    for batch in batches:
        if row >= batch.num_rows:
            row -= batch.num_rows
            continue
        part = batch.slice(row)
        row = 0
        for at in range(0, part.num_rows, 64):
            few = part.slice(at, 64)
            columns = [few.column(number).to_pylist() for number in range(few.num_columns)]
            for values in zip(*columns, strict=True):
                yield dict(zip(names, values, strict=True))


def _json_value(value: Any) -> Any:  # noqa: PLR0911 - a table
    """Return a cell as a JSON value; types that JSON lacks become text."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case bytes():
            return value.decode("utf-8", "replace")
        case dt.datetime() | dt.date() | dt.time():
            return value.isoformat()
        case list() | tuple():
            return [_json_value(each) for each in cast("list[Any]", value)]
        case dict():
            pairs = cast("dict[Any, Any]", value)
            return {str(key): _json_value(each) for key, each in pairs.items()}
        case _:
            return str(value)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
