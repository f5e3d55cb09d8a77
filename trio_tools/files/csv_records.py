"""Records of a CSV file, as pandas takes them, and one bad record for each that is bad.

Python's `csv` cuts records. What is around it deals with files that are not as they should be: a
byte that is not in the encoding, a field without an end or a record that is too large is one bad
record, and reading goes on with the true next one. Otherwise the rest of a quoted field would be
read as records, and the author of a field could forge some.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trio_tools.answers.errors import InvalidArgument
from trio_tools.files.records import MAX_CHUNK_BYTES, DatasetItem, Part, too_long
from trio_tools.files.text_source import MAX_RECORD_BYTES, ODD

if TYPE_CHECKING:
    from trio_tools.files.text_source import TextSource

DELIMITERS = ",;\t|"

_SNIFFED_LINES = 50
_LEAST_BLOCK = 16_384
_BYTES_PER_RECORD = 64
_SAID = re.compile(r'"?sep=(.)"?\r?\n?', re.IGNORECASE | re.DOTALL)
# A lone surrogate, which no text in a file decodes to: so it is a record of its own, unless the
# quotes before it are open.
_SENTINEL = "\ud800"

# The bound on a record is ours; the one of the module would tear a field in two.
csv.field_size_limit(2**31 - 1)


class Header:
    """The names of the columns, and the delimiter.

    Attributes:
        delimiter: One character.
        names: Each one different.
        offset: Where the first record begins.
        line: The lines before it.
    """

    def __init__(self, source: TextSource, delimiter: str | None) -> None:
        self.offset, self.line = source.offset, 0
        block = source.read_block(_LEAST_BLOCK)
        lines = lines_of(source.decode(block))
        while lines and not lines[0].strip():  # pandas passes over blank lines too
            self._pass_over(source, lines)
        said = _SAID.fullmatch(lines[0]) if lines else None
        if said:
            self._pass_over(source, lines)
        self.delimiter = delimiter or (said[1] if said else find_delimiter(lines))
        reader = csv.reader([*lines, _SENTINEL], delimiter=self.delimiter)
        fields = next(reader, list[str]())
        text = "".join(lines[: reader.line_num])
        reason = source.odd_reason(text)
        if reader.line_num > len(lines) or not fields or reason:
            raise InvalidArgument(
                "a CSV file must name its columns in its first line: found "
                f"{reason or text[:200]!r}",
                error_code="BAD_HEADER",
            )
        self.offset += source.length(text)
        self.line += reader.line_num
        self.names = distinct_names(fields)

    def _pass_over(self, source: TextSource, lines: list[str]) -> None:
        self.offset += source.length(lines.pop(0))
        self.line += 1


def distinct_names(fields: list[str]) -> list[str]:
    """Return names for columns as pandas does: `a`, `a.1`; `Unnamed: 2` for a blank one."""
    names: list[str] = []
    taken: set[str] = set()
    for number, field in enumerate(fields):
        name = base = field if field.strip() else f"Unnamed: {number}"
        again = 0
        while name in taken:
            again += 1
            name = f"{base}.{again}"
        taken.add(name)
        names.append(name)
    return names


def find_delimiter(lines: list[str]) -> str:
    """Return what cuts the first lines into the most columns, as many in each as in the first."""
    best, most = ",", (0.0, 1)
    for delimiter in DELIMITERS:
        rows = [row for row in csv.reader(lines[:_SNIFFED_LINES], delimiter=delimiter) if row]
        if not rows or len(rows[0]) == 1:
            continue
        width = len(rows[0])
        alike = sum(len(row) == width for row in rows) / len(rows)
        if (alike, width) > most:
            best, most = delimiter, (alike, width)
    return best


def read_csv(source: TextSource, header: Header, line: int, size: int) -> Part:
    """Return up to `size` items from where `source` is.

    Args:
        source: At the beginning of a record.
        header: Of the same file.
        line: The lines before that record.
        size: Items, at least 1.

    Raises:
        DamagedFileError: The file cannot be unpacked any further.
    """
    start = source.offset
    records = _Records(source, header, line, size)
    items: list[DatasetItem] = []
    for item in records:
        items.append(item)
        if len(items) == size or records.passed - start > MAX_CHUNK_BYTES:
            break
    offset = records.offset()
    ended = records.exhausted()
    return Part(items, None if ended else f"{offset}:{records.line()}", offset - start)


class _Records(Iterator[DatasetItem]):
    """Items in order, and after each of them where the next one begins."""

    def __init__(self, source: TextSource, header: Header, line: int, size: int) -> None:
        self._source = source
        self._header = header
        self._line = line  # lines before self._lines
        self._offset = source.offset  # bytes before self._lines
        self._least = max(_LEAST_BLOCK, min(size * _BYTES_PER_RECORD, MAX_RECORD_BYTES))
        self._lines: list[str] = []
        self._ends_whole = True
        self._done = 0  # of self._lines
        self._load()

    def __next__(self) -> DatasetItem:
        while True:
            before = self._done
            fields = next(self._reader)
            self._done = self._reader.line_num
            if self._done > len(self._lines) or (
                self._done == len(self._lines) and not self._ends_whole
            ):
                # The sentinel, or a record that goes on behind the lines that were read.
                self._done = before
                if self._more():
                    continue
                if before == len(self._lines):
                    raise StopIteration
                return self._pass_over_record()
            if fields:
                return self._item(fields, before)

    @property
    def passed(self) -> int:
        """The bytes before the lines that are in memory."""
        return self._offset

    def offset(self) -> int:
        """Return the bytes before the next record."""
        return self._offset + self._source.length("".join(self._lines[: self._done]))

    def line(self) -> int:
        """Return the lines before the next record."""
        return self._line + self._done

    def exhausted(self) -> bool:
        """Whether nothing but blank lines follows."""
        return (
            not any(line.strip("\r\n") for line in self._lines[self._done :])
            and self._ends_whole
            and self._source.at_end()
        )

    def _item(self, fields: list[str], before: int) -> DatasetItem:
        number = self._line + self._done
        if self._has_odd or self._may_be_long(before):
            text = "".join(self._lines[before : self._done])
            if self._source.length(text) > MAX_RECORD_BYTES:
                return too_long(number)
            reason = self._source.odd_reason(text)
            if reason:
                return DatasetItem(number, error=f"line {number}: {reason}")
        names = self._header.names
        if len(fields) != len(names):
            if len(fields) > len(names) and any(fields[len(names) :]):
                reason = f"the record has {len(fields)} fields, the header names {len(names)}"
                return DatasetItem(number, error=f"line {number}: {reason}")
            missing: list[Any] = [None] * (len(names) - len(fields))
            return DatasetItem(number, dict(zip(names, [*fields, *missing], strict=False)))
        return DatasetItem(number, dict(zip(names, fields, strict=True)))

    def _may_be_long(self, before: int) -> bool:
        return self._done - before > 1 or len(self._lines[before]) > MAX_RECORD_BYTES // 4

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
        self._has_odd = ODD.search(text) is not None
        self._reader = csv.reader([*self._lines, _SENTINEL], delimiter=self._header.delimiter)

    def _pass_over_record(self) -> DatasetItem:
        """Find the end of a record that is too long, or has none, without keeping it."""
        cutter = _Cutter(self._header.delimiter)
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
        """Return where the next record begins in `text`; None if it is behind it."""
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


def lines_of(text: str) -> list[str]:
    """Return the lines of a text with their ends, which are LF, CR LF or CR."""
    return list(io.StringIO(text, newline=""))
