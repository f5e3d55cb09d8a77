"""Values of a JSON file: the elements of an array, or a sequence of values."""

from __future__ import annotations

import codecs
import json
import re
from typing import TYPE_CHECKING, Any

from trio_tools.files.json_lines import check_text
from trio_tools.files.records import MAX_CHUNK_BYTES, DatasetItem, Part, bad_position, too_long
from trio_tools.files.text_layers import ODD_BYTES
from trio_tools.files.text_source import MAX_RECORD_BYTES

if TYPE_CHECKING:
    from trio_tools.files.text_source import TextSource

_LEAST_BLOCK = 16_384
_BETWEEN = re.compile(r"[\s,]*+")
_SCALAR_END = re.compile(r"[\s,\]}\[{\"]")
_IN_TEXT = re.compile(r'["\\]')
_OUTSIDE = re.compile(r'["\[\]{}]')
_decode = json.JSONDecoder().raw_decode


def read_values(source: TextSource, position: str | None, size: int) -> Part:
    """Return up to `size` items: the elements of an array, or a sequence of values.

    Args:
        source: At its beginning.
        position: Where to continue: an offset, the number of lines before it, and whether it is
            in an array.
        size: Number of items, at least 1.

    Raises:
        DamagedFileError: The file cannot be unpacked to its end.
        InvalidArgument: It is not a position.
    """
    values = _Values(source)
    if position is not None:
        offset, line, inside = position.split(":")
        try:
            source.seek(int(offset), anywhere=True)
        except ValueError as error:
            raise bad_position(position) from error
        values.go_on_from(int(line), inside_array=inside == "a")
    start = values.offset()
    items: list[DatasetItem] = []
    while (item := values.next_item()) is not None:
        items.append(item)
        if len(items) == size or values.offset() - start > MAX_CHUNK_BYTES:
            break
    following = None if item is None or values.at_end() else values.position()
    return Part(items, following, values.offset() - start)


class _Values:
    """JSON values from pieces of text. At most one record is kept in memory."""

    def __init__(self, source: TextSource) -> None:
        self._source = source
        self._decoder = codecs.getincrementaldecoder(source.codec)(ODD_BYTES)
        self._text = ""
        self._at = 0
        # Of the text before self._counted: number of bytes and lines since the beginning of the
        # file.
        self._counted = 0
        self._start = source.offset
        self._line = 0
        self._inside: bool | None = None  # whether in an array; unknown at the beginning

    def go_on_from(self, line: int, *, inside_array: bool) -> None:
        """Set the position of the source."""
        self._start, self._line, self._inside = self._source.offset, line, inside_array

    def offset(self) -> int:
        """Return the bytes before the next value."""
        self._count()
        return self._start

    def position(self) -> str:
        """Return where the next value begins, for `read_values`."""
        return f"{self.offset()}:{self._lines_done()}:{'a' if self._inside else 'v'}"

    def at_end(self) -> bool:
        """Whether no value follows. Values may follow an array, too."""
        self._pass_over_between()
        if self._inside and self._at < len(self._text) and self._text[self._at] == "]":
            self._at += 1
            self._inside = False
            self._pass_over_between()
        return self._at >= len(self._text)

    def next_item(self) -> DatasetItem | None:
        """Return the next value, or its error; None at the end."""
        self._pass_over_between()
        if self._inside is None and self._at < len(self._text):
            self._inside = self._text[self._at] == "["
            self._at += self._inside
            self._pass_over_between()
        if self.at_end():
            return None
        first = self._at
        while True:
            try:
                value, end = _decode(self._text, first)
            except (json.JSONDecodeError, RecursionError) as error:
                if self._grow():
                    first = self._at
                    continue
                return self._bad(first, error)
            # A number at the end of the text read so far may continue.
            if end < len(self._text) or not self._grow():
                break
            first = self._at
        self._at = end
        return self._good(self._text[first:end], value)

    def _good(self, text: str, value: Any) -> DatasetItem:
        line = self._lines_done() + 1
        reason = self._source.odd_reason(text)
        if self._source.length(text) > MAX_RECORD_BYTES:
            return too_long(line)
        try:
            value = check_text(value)
        except ValueError as error:
            reason = str(error)
        return (
            DatasetItem(line, error=f"line {line}: {reason}")
            if reason
            else DatasetItem(line, value)
        )

    def _bad(self, first: int, error: Exception) -> DatasetItem:
        """Skip an invalid value, to the end of its brackets and quotes."""
        brackets = _Brackets(in_array=bool(self._inside))
        self._at = first
        while (end := brackets.find_end(self._text, self._at)) is None:
            self._at = len(self._text)
            if not self._grow(always=True):
                break
        else:
            self._at = end
        line = self._lines_done() + 1
        if brackets.size > MAX_RECORD_BYTES:
            return too_long(line)
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "it is nested too deeply"
        return DatasetItem(line, error=f"line {line}: {reason}")

    def _pass_over_between(self) -> None:
        while True:
            between = _BETWEEN.match(self._text, self._at)
            assert between is not None
            self._at = between.end()
            if self._at < len(self._text) or not self._grow(always=True):
                return

    def _lines_done(self) -> int:
        self._count()
        return self._line

    def _count(self) -> None:
        passed = self._text[self._counted : self._at]
        self._start += self._source.length(passed)
        self._line += passed.count("\n")
        self._counted = self._at

    def _grow(self, *, always: bool = False) -> bool:
        """Drop the parsed text and read more. False at the end, or if a record is too long."""
        if self._source.at_end() or (not always and len(self._text) - self._at > MAX_RECORD_BYTES):
            return False
        self._count()
        block = self._source.read_block(max(_LEAST_BLOCK, len(self._text) - self._at))
        text = self._decoder.decode(block, final=self._source.at_end())
        self._text = self._text[self._at :] + text
        self._at = self._counted = 0
        return True


class _Brackets:
    """Finds the end of an invalid value in pieces of text."""

    def __init__(self, *, in_array: bool) -> None:
        self._in_array = in_array
        self._open: list[str] = []
        self._in_text = False
        self._escaped = False
        self.size = 0

    def find_end(self, text: str, at: int) -> int | None:  # noqa: C901, PLR0912 - states
        """Return where the text after the value begins; None if it is after this piece."""
        first = at
        if self._escaped:
            at, self._escaped = at + 1, False
        while at < len(text):
            if self._in_text:
                mark = _IN_TEXT.search(text, at)
                if mark is None:
                    break
                at = mark.end()
                if mark[0] == "\\":
                    self._escaped = at == len(text)
                    at += 1
                    continue
                self._in_text = False
            elif text[at] == '"':
                self._in_text = True
                at += 1
                continue
            elif text[at] in "[{":
                if len(self._open) < MAX_RECORD_BYTES:
                    self._open.append("]" if text[at] == "[" else "}")
                at += 1
                continue
            elif text[at] in "]}":
                if not self._open:
                    self.size += at - first
                    return at if self._in_array and text[at] == "]" else at + 1
                if text[at] == self._open[-1]:
                    self._open.pop()
                at += 1
            elif not self._open and text[at] in (",\n" if self._in_array else "\n"):
                self.size += at - first
                return at
            else:
                mark = (_OUTSIDE if self._open else _SCALAR_END).search(text, at + 1)
                at = len(text) if mark is None else mark.start()
                continue
            if not self._open and not self._in_text and not self._in_array:
                self.size += at - first
                return at
        self.size += len(text) - first
        return None
