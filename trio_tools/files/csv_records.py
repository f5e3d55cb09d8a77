"""Records of a CSV file, as pandas parses them; each bad record is one item with an error.

Python's `csv` splits the records. This module handles defective files: a byte that is not in the
encoding, an unclosed field or a record that is too large is one bad record, and reading continues
with the next real record. Otherwise the rest of a quoted field would be parsed as records, so
that the author of a field could forge some.
"""

from __future__ import annotations

import csv
import re
from typing import TYPE_CHECKING, Any

from trio_tools.files.csv_header import SENTINEL, Header, lines_of
from trio_tools.files.records import MAX_CHUNK_BYTES, DatasetItem, Part, new_item, too_long
from trio_tools.files.text_layers import has_odd
from trio_tools.files.text_source import MAX_RECORD_BYTES, has_long_line

if TYPE_CHECKING:
    from trio_tools.files.text_source import TextSource

_LEAST_BLOCK = 16_384
_BYTES_PER_RECORD = 64


def read_csv(source: TextSource, header: Header, line: int, size: int) -> Part:
    """Return up to `size` items from where `source` is.

    Args:
        source: At the beginning of a record.
        header: The header of the same file.
        line: Number of lines before that record.
        size: Number of items, at least 1.

    Raises:
        DamagedFileError: The file cannot be unpacked to its end.
    """
    start = source.offset
    records = _Records(source, header, line, size)
    items: list[DatasetItem] = []
    while len(items) < size and records.passed - start <= MAX_CHUNK_BYTES:
        if not records.read_into(items, size):
            break
    offset = records.offset()
    ended = records.exhausted()
    return Part(items, None if ended else f"{offset}:{records.line()}", offset - start)


class _Records:
    """Items in order, many at a time, and the position of the next one."""

    def __init__(self, source: TextSource, header: Header, line: int, size: int) -> None:
        self._source = source
        self._names = header.names
        self._delimiter = header.delimiter
        self._line = line  # lines before self._lines
        self._offset = source.offset  # bytes before self._lines
        self._least = max(_LEAST_BLOCK, min(size * _BYTES_PER_RECORD, MAX_RECORD_BYTES))
        self._lines: list[str] = []
        self._ends_whole = True
        self._done = 0  # of self._lines
        self._load()

    def read_into(self, items: list[DatasetItem], size: int) -> bool:
        """Append the records in memory, until there are `size` items; then read more.

        Returns:
            False at the end.
        """
        names, line, reader, is_clean = self._names, self._line, self._reader, self._is_clean
        width, whole = len(names), len(self._lines) - (not self._ends_whole)
        done = self._done
        for fields in reader:
            before, done = done, reader.line_num
            if done > whole:  # the sentinel, or a record that continues after the lines read so far
                break
            # Nearly every record: a correct line with as many fields as there are names.
            if is_clean and done == before + 1 and len(fields) == width:
                value = dict(zip(names, fields))  # noqa: B905 - a third faster than `strict`
                items.append(new_item((line + done, value, None, None)))
            elif fields:
                items.append(self._item(fields, before, done))
            self._done = done
            if len(items) == size:
                return True
        if self._more():
            return True
        if self._done == len(self._lines):
            return False
        items.append(self._pass_over_record())
        return True

    @property
    def passed(self) -> int:
        """The bytes before the lines in memory."""
        return self._offset

    def offset(self) -> int:
        """Return the bytes before the next record."""
        return self._offset + self._source.length("".join(self._lines[: self._done]))

    def line(self) -> int:
        """Return the lines before the next record."""
        return self._line + self._done

    def exhausted(self) -> bool:
        """Whether only blank lines follow."""
        return (
            not any(line.strip("\r\n") for line in self._lines[self._done :])
            and self._ends_whole
            and self._source.at_end()
        )

    def _item(self, fields: list[str], before: int, done: int) -> DatasetItem:
        """Return the item of the record in the lines from `before` to `done`."""
        number = self._line + done
        if not self._is_clean or done > before + 1:
            text = "".join(self._lines[before:done])
            if self._source.length(text) > MAX_RECORD_BYTES:
                return too_long(number)
            reason = self._source.odd_reason(text)
            if reason:
                return DatasetItem(number, error=f"line {number}: {reason}")
        names = self._names
        if len(fields) != len(names):
            if len(fields) > len(names) and any(fields[len(names) :]):
                reason = f"the record has {len(fields)} fields, the header names {len(names)}"
                return DatasetItem(number, error=f"line {number}: {reason}")
            missing: list[Any] = [None] * (len(names) - len(fields))
            return DatasetItem(number, dict(zip(names, [*fields, *missing], strict=False)))
        return DatasetItem(number, dict(zip(names, fields, strict=True)))

    def _more(self) -> bool:
        """Append the next lines. False if that exceeds the bound, or at the end."""
        rest = self._lines[self._done :]
        if sum(map(len, rest)) > MAX_RECORD_BYTES or self._source.at_end():
            return False
        self._load()
        return True

    def _load(self) -> None:
        done = "".join(self._lines[: self._done])
        self._offset += self._source.length(done)
        self._line += self._done
        rest = "".join(self._lines[self._done :])
        block = self._source.read_block(self._least)
        text = rest + self._source.decode(block)
        self._ends_whole = not block or self._source.is_whole(block)
        self._begin(text)

    def _begin(self, text: str) -> None:
        self._lines, self._done = lines_of(text), 0
        self._is_clean = not (has_odd(text) or has_long_line(text, self._lines))
        self._reader = csv.reader([*self._lines, SENTINEL], delimiter=self._delimiter)

    def _pass_over_record(self) -> DatasetItem:
        """Find the end of a record that is too long or unclosed, without keeping it."""
        cutter = _Cutter(self._delimiter)
        text = "".join(self._lines[self._done :])
        self._offset += self._source.length("".join(self._lines[: self._done]))
        self._line += self._done
        first = self._line + 1
        size = 0
        while (end := cutter.find_end(text)) is None:
            size += len(text)
            self._offset += self._source.length(text)
            self._line += text.count("\n") or text.count("\r")
            block = self._source.read_block(self._least)
            if not block:
                self._begin("")
                self._ends_whole = True
                if size <= MAX_RECORD_BYTES and cutter.is_quoted:
                    reason = "the quote of its last field is never closed"
                    return DatasetItem(first, error=f"line {first}: {reason}")
                return too_long(max(self._line, first))
            text = self._source.decode(block)
            self._ends_whole = self._source.is_whole(block)
        passed = text[:end]
        self._offset += self._source.length(passed)
        self._line += len(lines_of(passed))
        self._begin(text[end:])
        return too_long(self._line)


class _Cutter:
    """Finds the end of one record in pieces of text, with the rules of `csv`."""

    def __init__(self, delimiter: str) -> None:
        self._mark = re.compile(f"[{re.escape(delimiter)}\r\n]")
        self._delimiter = delimiter
        self._state = "start"

    @property
    def is_quoted(self) -> bool:
        """Whether a quote is open."""
        return self._state == "quoted"

    def find_end(self, text: str) -> int | None:
        """Return where the next record begins in `text`; None if it begins after it."""
        at = 0
        while at < len(text):
            match self._state:
                case "quoted":
                    at = text.find('"', at) + 1
                    if not at:
                        return None
                    self._state = "quote"
                case "quote" if text[at] == '"':
                    at += 1
                    self._state = "quoted"
                case "start" if text[at] == '"':
                    at += 1
                    self._state = "quoted"
                case _:
                    mark = self._mark.search(text, at)
                    if mark is None:
                        self._state = "field"
                        return None
                    at = mark.end()
                    if mark[0] != self._delimiter:
                        return at + text.startswith("\n", at) * (mark[0] == "\r")
                    self._state = "start"
        return None
