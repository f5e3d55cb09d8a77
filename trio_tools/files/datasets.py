"""Datasets read a chunk of items at a time, each chunk from where the last one ended.

Nothing is held open between chunks. A position is complete, so reading can continue after a
cancel, in another call, or in another process. Memory is bounded by the chunk, not by the
dataset.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import PurePath
from typing import TYPE_CHECKING, BinaryIO

import trio

from nursery_patterns import WorkerCrashed
from trio_tools.answers.errors import Forbidden, InvalidArgument, NotFound
from trio_tools.files import table_files
from trio_tools.files.csv_header import Header
from trio_tools.files.csv_records import read_csv
from trio_tools.files.json_lines import line_as_json, line_as_text, read_lines
from trio_tools.files.json_values import read_values
from trio_tools.files.records import (
    MAX_CHUNK_BYTES,
    Chunk,
    DatasetItem,
    Part,
    bad_position,
)
from trio_tools.files.text_format import TextFormat, find_format
from trio_tools.files.text_layers import DamagedFileError
from trio_tools.files.text_source import MAX_RECORD_BYTES, TextSource
from trio_tools.settings.threads import run_in_tool_process

if TYPE_CHECKING:
    from trio_tools.files.roots import FileRoots

__all__ = ["MAX_CHUNK_BYTES", "MAX_RECORD_BYTES", "Chunk", "Dataset", "DatasetItem", "DatasetKind"]

_MAX_POSITION_CHARS = 100
_MAX_FILES = 100_000


class DatasetKind(StrEnum):
    """How a dataset is split into items."""

    JSON_LINES = "json_lines"
    """One JSON value per line; blank lines are skipped."""
    JSON = "json"
    """The elements of one array, or a sequence of values."""
    CSV = "csv"
    """One object of texts per record, named by the header."""
    LINES = "lines"
    """`{"text": …}` for each line that is not blank."""
    PARQUET = "parquet"
    """One object per row. Needs the extra `parquet`."""
    ARROW = "arrow"
    """One object per row of an Arrow (Feather) file. Needs the extra `parquet`."""
    EXCEL = "excel"
    """One object per row of each sheet, named by its first row. Needs the extra `excel`."""
    FOLDER = "folder"
    """The path of each file in the folder itself, in order of name."""


_KIND_BY_SUFFIX = {
    ".jsonl": DatasetKind.JSON_LINES,
    ".ndjson": DatasetKind.JSON_LINES,
    ".json": DatasetKind.JSON,
    ".csv": DatasetKind.CSV,
    ".tsv": DatasetKind.CSV,
    ".txt": DatasetKind.LINES,
    ".log": DatasetKind.LINES,
    ".parquet": DatasetKind.PARQUET,
    ".arrow": DatasetKind.ARROW,
    ".feather": DatasetKind.ARROW,
    **dict.fromkeys((".xlsx", ".xls", ".xlsb", ".xlsm", ".ods"), DatasetKind.EXCEL),
}
_PACKED_SUFFIXES = frozenset({".gz", ".bz2", ".xz", ".zst", ".zstd"})
_TABLES = frozenset({DatasetKind.PARQUET, DatasetKind.ARROW, DatasetKind.EXCEL})


@dataclass(frozen=True, slots=True)
class Dataset:
    """A file of records, several of them, or a folder, under the roots.

    Text may be packed with gzip, bzip2, xz or zstd.

    Args:
        roots: The folders that may be read.
        path: As for `FileRoots.resolve`. With `*`, `?` or `[` in its last part: all files of that
            folder whose names match, in order of name.
        kind: None to detect it by the suffix, or because it is a folder.
        encoding: Encoding of the text; a byte order mark overrides it. None to detect it: UTF-8,
            unless the beginning is not UTF-8 and is readable text in another encoding.
        delimiter: Delimiter of CSV. None to detect it: from a line `sep=`, or else the one that
            splits the first lines into equally many columns.
    """

    roots: FileRoots
    path: str
    kind: DatasetKind | None = None
    encoding: str | None = None
    delimiter: str | None = None

    def read_chunk(self, position: str | None = None, size: int = 50) -> Chunk:
        """Return up to `size` items, starting at `position`.

        Runs in a trio worker thread; a cancel ends it within a block of 64 KiB. A chunk also ends
        after `MAX_CHUNK_BYTES`. A bad record is an item with an `error`; reading goes on after it.

        Args:
            position: `next_position` of the previous chunk; None for the beginning.
            size: Number of items, at least 1.

        Raises:
            Forbidden, NotFound: As `FileRoots.open_binary`.
            InvalidArgument: As `FileRoots.open_binary`; also an unknown kind, a position that is
                not of this dataset, a CSV file without a usable header, or a file that is not of
                its kind.
            UpstreamFailed: The library for this kind is not installed.
        """
        folder, pattern = os.path.split(self.path)
        if any(mark in pattern for mark in "*?["):
            return self._read_several(folder, pattern, position, size)
        kind = self.kind or self._guess_kind(self.path)
        if kind is DatasetKind.FOLDER:
            return self._read_folder(position, size)
        part = self._read_file(self.path, kind, position, size)
        return Chunk(tuple(part.items), part.next_position, part.warnings)

    def _guess_kind(self, path: str) -> DatasetKind:
        kind = _KIND_BY_SUFFIX.get(_suffix(path))
        if kind is not None:
            return kind
        if self.roots.is_folder(path):
            return DatasetKind.FOLDER
        raise InvalidArgument(
            f"{path!r} is neither a folder nor named {', '.join(_KIND_BY_SUFFIX)}: "
            f"take one that is, or let the operator name it in the setting datasets, with its kind "
            f"({', '.join(DatasetKind)})",
            error_code="UNKNOWN_DATASET_KIND",
        )

    def _read_several(self, folder: str, pattern: str, position: str | None, size: int) -> Chunk:
        entries = self.roots.list_folder(folder or ".", count=_MAX_FILES)
        names = [entry.name for entry in entries if fnmatchcase(entry.name, pattern)]
        if not names:
            raise NotFound(f"no file is named {self.path!r}: check the pattern, or its folder")
        name, inner = names[0], None
        if position is not None:
            name, slash, rest = position.partition("/")
            if not slash or name not in names:
                raise bad_position(position)
            inner = rest or None
        items: list[DatasetItem] = []
        warnings: list[str] = []
        used = 0
        for number in range(names.index(name), len(names)):
            name = names[number]
            path = os.path.join(folder, name)  # noqa: PTH118 - as the caller wrote it
            kind = self.kind or self._guess_kind(path)
            part = self._read_file(path, kind, inner, size - len(items))
            items += [item._replace(source=name) for item in part.items]
            warnings += part.warnings
            used += part.size
            inner = part.next_position
            if inner is not None:
                return Chunk(tuple(items), f"{name}/{inner}", tuple(warnings))
            if number + 1 < len(names) and (len(items) == size or used > MAX_CHUNK_BYTES):
                return Chunk(tuple(items), f"{names[number + 1]}/", tuple(warnings))
        return Chunk(tuple(items), None, tuple(warnings))

    def _read_folder(self, position: str | None, size: int) -> Chunk:
        # One more name than requested shows whether there is a next chunk.
        entries = self.roots.list_folder(self.path, after=position or "", count=size + 1)
        folder = self.roots.resolve(self.path)
        items: list[DatasetItem] = []
        for number, entry in enumerate(entries[:size], 1):
            path = str(folder / entry.name)
            if not (entry.is_link and self._is_folder(path)):
                items.append(self._file_item(number, path, entry.name, is_link=entry.is_link))
        following = entries[size - 1].name if len(entries) > size else None
        return Chunk(tuple(items), following)

    def _is_folder(self, path: str) -> bool:
        """Whether a link leads to a folder inside the roots, which is skipped."""
        try:
            return self.roots.is_folder(path)
        except (Forbidden, InvalidArgument):
            return False

    def _file_item(self, number: int, path: str, name: str, *, is_link: bool) -> DatasetItem:
        raw = os.fsencode(name)  # Linux allows any bytes in a name, JSON does not
        try:
            raw.decode()
        except UnicodeDecodeError:
            return DatasetItem(number, error=f"the file name {raw!r} is not UTF-8")
        if is_link:
            try:
                self.roots.open_binary(path).close()
            except Forbidden:
                reason = "is a link that leads outside the folders that this server may read"
                return DatasetItem(number, error=f"{name!r} {reason}")
            except NotFound:
                return DatasetItem(number, error=f"{name!r} is a link that leads nowhere")
            except InvalidArgument as failure:
                return DatasetItem(number, error=failure.message)
        return DatasetItem(number, path)

    def _read_file(self, path: str, kind: DatasetKind, position: str | None, size: int) -> Part:
        if position is not None and len(position) > _MAX_POSITION_CHARS:
            raise bad_position(position[:_MAX_POSITION_CHARS])
        if kind in _TABLES:
            return self._read_table(path, kind, position, size)
        with self.roots.open_binary(path) as file:
            try:
                return self._read_text(file, path, kind, position, size)
            except DamagedFileError as error:
                return Part([DatasetItem(0, error=f"{path!r}: {error}")], None, 0)

    def _read_text(
        self, file: BinaryIO, path: str, kind: DatasetKind, position: str | None, size: int
    ) -> Part:
        known, delimiter, inner = _parse(position)
        if known is None:
            known = find_format(file, self.encoding)
            if kind is DatasetKind.CSV:
                delimiter = self.delimiter or ("\t" if _suffix(path) == ".tsv" else None)
        source = TextSource(file, known)
        if kind is DatasetKind.JSON:
            part = read_values(source, inner, size)
        else:
            header = Header(source, delimiter) if kind is DatasetKind.CSV else None
            offset, line = (header.offset, header.line) if header else (0, 0)
            if inner is not None:
                offset, line = _numbers(inner)
            if header:
                file.seek(0)
                source = TextSource(file, known)
                delimiter = header.delimiter
            try:
                source.seek(offset)
            except ValueError as error:
                raise bad_position(position or "") from error
            if header:
                part = read_csv(source, header, line, size)
            else:
                convert = line_as_text if kind is DatasetKind.LINES else line_as_json
                part = read_lines(source, line, size, convert)
        warnings = [] if position else _warnings(path, known, goes_on=bool(part.next_position))
        following = part.next_position and _position(known, delimiter, part.next_position)
        return Part(part.items, following, part.size, tuple(warnings))

    def _read_table(self, path: str, kind: DatasetKind, position: str | None, size: int) -> Part:
        table_files.check_installed(kind)
        self.roots.open_binary(path).close()  # an error here needs no process
        try:
            return trio.from_thread.run(_in_worker, self.roots, path, str(kind), position, size)
        except (MemoryError, WorkerCrashed) as error:
            raise InvalidArgument(
                f"{path!r} needs more memory or time to be read than a file may take "
                f"({table_files.WORKER_MEMORY_BYTES:,} bytes, "
                f"{table_files.WORKER_CPU_SECONDS:g} seconds): split it",
                error_code="TOO_LARGE",
            ) from error


async def _in_worker(
    roots: FileRoots, path: str, kind: str, position: str | None, size: int
) -> Part:
    return await run_in_tool_process(
        table_files.read_table_file,
        roots,
        path,
        kind,
        position,
        size,
        max_memory_bytes=table_files.WORKER_MEMORY_BYTES,
        max_cpu_seconds=table_files.WORKER_CPU_SECONDS,
    )


def _suffix(path: str) -> str:
    suffixes = [suffix.lower() for suffix in PurePath(path).suffixes]
    while suffixes and suffixes[-1] in _PACKED_SUFFIXES:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _warnings(path: str, known: TextFormat, *, goes_on: bool) -> list[str]:
    warnings: list[str] = []
    if known.guessed:
        warnings.append(
            f"{path!r} is not UTF-8 and was read as {known.encoding}, which is a guess: the "
            "operator can set the encoding of a dataset."
        )
    if goes_on and not known.is_seekable:
        what = f"packed with {known.packing}" if known.packing else f"in {known.encoding}"
        warnings.append(
            f"{path!r} is {what}: each chunk reads it again from its beginning, so take large ones."
        )
    return warnings


def _position(known: TextFormat, delimiter: str | None, inner: str) -> str:
    mark = str(ord(delimiter)) if delimiter else ""
    return f"{known.packing}:{known.encoding}:{known.line_end}:{mark}:{inner}"


def _parse(position: str | None) -> tuple[TextFormat | None, str | None, str | None]:
    if position is None:
        return None, None, None
    parts: Sequence[str] = position.split(":", 4)
    if len(parts) < 5:  # noqa: PLR2004 - as many as `_position` writes
        raise bad_position(position)
    packing, encoding, line_end, mark, inner = parts
    numbers = inner.split(":")[:2]
    known = TextFormat(packing, encoding, line_end)
    if (
        packing not in {"", "gzip", "bzip2", "lzma", "zstd"}
        or not known.has_codec()
        or not all(number.isdecimal() and len(number) < 20 for number in (*numbers, mark or "0"))  # noqa: PLR2004
        or len(numbers) < 2  # noqa: PLR2004
        or int(mark or 44) > 0x10FFFF  # noqa: PLR2004 - the last character there is
    ):
        raise bad_position(position)
    return known, chr(int(mark)) if mark else None, inner


def _numbers(inner: str) -> tuple[int, int]:
    offset, line = inner.split(":")[:2]
    return int(offset), int(line)
