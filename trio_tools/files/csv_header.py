"""The header of a CSV file: the names of its columns, and the delimiter between fields."""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING

from trio_tools.answers.errors import InvalidArgument

if TYPE_CHECKING:
    from trio_tools.files.text_source import TextSource

DELIMITERS = ",;\t|"

_SNIFFED_LINES = 50
_LEAST_BLOCK = 16_384
_SAID = re.compile(r'"?sep=(.)"?\r?\n?', re.IGNORECASE | re.DOTALL)
SENTINEL = "\ud800"
"""A lone surrogate. No text in a file decodes to it, so it is a separate record, unless a quote
before it is open."""


# The bound on a record is ours. The bound of the csv module would split a field.
csv.field_size_limit(2**31 - 1)


class Header:
    """The names of the columns, and the delimiter.

    Attributes:
        delimiter: One character.
        names: The column names, all different.
        offset: Offset of the first record in bytes.
        line: Number of lines before it.
    """

    def __init__(self, source: TextSource, delimiter: str | None) -> None:
        self.offset, self.line = source.offset, 0
        block = source.read_block(_LEAST_BLOCK)
        lines = lines_of(source.decode(block))
        while lines and not lines[0].strip():  # pandas skips blank lines too
            self._pass_over(source, lines)
        said = _SAID.fullmatch(lines[0]) if lines else None
        if said:
            self._pass_over(source, lines)
        self.delimiter = delimiter or (said[1] if said else find_delimiter(lines))
        reader = csv.reader([*lines, SENTINEL], delimiter=self.delimiter)
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
    """Return the delimiter that splits the first lines into the most, equally many, columns."""
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


def lines_of(text: str) -> list[str]:
    """Return the lines of a text with their ends, which are LF, CR LF or CR."""
    return list(io.StringIO(text, newline=""))
