"""The memory of a JSON text after parsing, estimated from its bytes before parsing.

Four megabytes of `{}` become a hundred megabytes of Python objects. The text is only counted, one
megabyte per step. A text with too many parts is never parsed.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import Final

import trio

MAX_CONTAINERS: Final = 100_000
"""Limit of objects and lists in one message."""

MAX_TEXTS: Final = 100_000
"""Limit of texts in one message, including field names."""

MAX_VALUES: Final = 250_000
"""Limit of values in one message. Python's parser takes up to 100 ms for so many floats."""

MAX_BARE_BYTES: Final = 2**22
"""Limit of bytes outside of texts. The longest integers take 20 ms per megabyte."""

TOO_MANY: Final = (
    f"The message has more than {MAX_CONTAINERS} objects and lists, {MAX_TEXTS} texts, "
    f"{MAX_VALUES} values or {MAX_BARE_BYTES} bytes outside of texts: send it in parts."
)

# CPython's size of an empty object of each kind, and of its reference in another one.
_CONTAINER_BYTES: Final = 72
_TEXT_BYTES: Final = 57
_VALUE_BYTES: Final = 32

# Bytes that are counted between two checkpoints: some milliseconds at worst.
_STEP_BYTES: Final = 2**20

# Texts in a piece. The last one may continue after its end; group 1 is the end of the piece.
_TEXT: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|(\\?)\Z)', re.DOTALL)
_REST_OF_TEXT: Final = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)


async def weigh(text: bytes) -> int | None:
    """Return the result of `parsed_weight`, with a checkpoint for each further megabyte."""
    steps = _in_steps(text)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
        await trio.lowlevel.checkpoint()


def parsed_weight(text: bytes) -> int | None:
    """Return the approximate bytes of the objects of a JSON text, beside its own length.

    Args:
        text: The text; it need not be JSON.

    Returns:
        The weight, in bytes; None for a text with too many parts.
    """
    steps = _in_steps(text)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def _in_steps(text: bytes) -> Generator[None, None, int | None]:
    texts = containers = values = 0
    for start in range(0, len(text), _STEP_BYTES):
        if start:
            yield
        end = start + _STEP_BYTES
        # A quote within a text is escaped, except after an escaped backslash. This is precise
        # enough.
        texts += text.count(b'"', start, end) - text.count(b'\\"', start, end)
        containers += text.count(b"{", start, end) + text.count(b"[", start, end)
        values += text.count(b",", start, end)
    texts //= 2
    if texts > MAX_TEXTS:
        return None
    if containers > MAX_CONTAINERS or values > MAX_VALUES or len(text) > MAX_BARE_BYTES:
        # Brackets and commas in texts do not count.
        containers, values, bare = yield from _outside_of_texts(text)
        if containers > MAX_CONTAINERS or values > MAX_VALUES or bare > MAX_BARE_BYTES:
            return None
    content = len(text) if texts else 0  # what the texts hold, at most
    return content + containers * _CONTAINER_BYTES + texts * _TEXT_BYTES + values * _VALUE_BYTES


def _outside_of_texts(text: bytes) -> Generator[None, None, tuple[int, int, int]]:
    """Return the number of containers, values and bytes outside of texts."""
    containers = values = bare = position = 0
    goes_on: list[bytes] = []

    def drop(found: re.Match[bytes]) -> bytes:
        if found.lastindex:
            goes_on.append(found[1])
        return b""

    while position < len(text):
        yield
        piece = text[position : position + _STEP_BYTES]
        outside = _TEXT.sub(drop, piece)
        containers += outside.count(b"{") + outside.count(b"[")
        values += outside.count(b",")
        bare += len(outside)
        position += len(piece)
        if goes_on:
            position = yield from _end_of_text(text, position - len(goes_on.pop()))
    return containers, values, bare


def _end_of_text(text: bytes, position: int) -> Generator[None, None, int]:
    """Return the end of the text that contains `position`."""
    while position < len(text):
        yield
        found = _REST_OF_TEXT.match(text, position, position + _STEP_BYTES)
        end = found.end() if found else position
        if end == position or text[end : end + 1] == b'"':
            return end + 1
        position = end
    return position
