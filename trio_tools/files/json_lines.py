"""Records of a file of lines: one JSON value per line, or the line itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from trio_tools.files.csv_header import lines_of
from trio_tools.files.records import MAX_CHUNK_BYTES, DatasetItem, Part, new_item, too_long
from trio_tools.files.text_layers import has_odd
from trio_tools.files.text_source import MAX_RECORD_BYTES, has_long_line

if TYPE_CHECKING:
    from trio_tools.files.text_source import TextSource

_LEAST_BLOCK = 16_384
_BYTES_PER_LINE = 64
_decode = json.JSONDecoder().raw_decode


def read_lines(source: TextSource, line: int, size: int, convert: Callable[[str], Any]) -> Part:
    """Return up to `size` items, one for each line that is not blank.

    Args:
        source: At the beginning of a line.
        line: Number of lines before it.
        size: Number of items, at least 1.
        convert: Returns the value of a line; a `ValueError` becomes the error of the item.

    Raises:
        DamagedFileError: The file cannot be unpacked to its end.
    """
    start = offset = source.offset
    items: list[DatasetItem] = []
    least = max(_LEAST_BLOCK, min(size * _BYTES_PER_LINE, MAX_RECORD_BYTES))
    while block := source.read_block(least):
        text = source.decode(block)
        lines = lines_of(text)
        is_clean = not (has_odd(text) or has_long_line(text, lines))
        torn = 0 if source.is_whole(block) else len(lines)
        for done, one in enumerate(lines, 1):
            line += 1
            if done == torn:
                source.skip_line()
                items.append(too_long(line))
            elif is_clean and not one.isspace():
                try:
                    items.append(new_item((line, convert(one), None, None)))
                except (ValueError, RecursionError) as error:
                    items.append(DatasetItem(line, error=f"line {line}: {error}"))
            elif not one.isspace():
                items.append(_doubtful_item(source, one, line, convert))
            if len(items) == size and done < len(lines):
                offset += source.length("".join(lines[:done]))
                return Part(items, f"{offset}:{line}", offset - start)
        offset = source.offset
        if len(items) == size or offset - start > MAX_CHUNK_BYTES:
            break
    return Part(items, None if source.at_end() else f"{offset}:{line}", offset - start)


def line_as_text(line: str) -> dict[str, str]:
    """Return a plain line as a record."""
    return {"text": line.rstrip("\r\n")}


def line_as_json(line: str) -> Any:
    """Return the JSON value of a line.

    Raises:
        ValueError: It is not JSON, or has a lone surrogate.
    """
    text = line.rstrip()
    try:
        value, end = _decode(text)  # without the checks of `json.loads`
    except json.JSONDecodeError:
        value, end = None, -1
    if end != len(text):
        value = _loads(text)
    return check_text(value) if "\\u" in text else value


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:  # its own text has "line 1" for every line
        raise ValueError(f"{error.msg} at column {error.colno}") from error


def check_text(value: Any) -> Any:
    """Return a value whose text has escapes. Lone surrogates among them are refused."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("it contains a lone surrogate") from error
    return value


def _doubtful_item(
    source: TextSource, text: str, line: int, convert: Callable[[str], Any]
) -> DatasetItem:
    """Return the item of a line that may be too long, or contain bytes of another encoding."""
    if source.length(text) > MAX_RECORD_BYTES:
        return too_long(line)
    reason = source.odd_reason(text)
    if reason is None:
        try:
            return DatasetItem(line, convert(text))
        except (ValueError, RecursionError) as error:
            reason = str(error)
    return DatasetItem(line, error=f"line {line}: {reason}")
