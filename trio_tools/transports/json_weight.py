"""What a JSON text weighs once it is parsed, told from its bytes before anything is.

Four megabytes of `{}` are a hundred megabytes of Python objects. The text is only counted, a
megabyte at a step; what has too many parts is never parsed.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import Final

import trio

MAX_CONTAINERS: Final = 100_000
"""Most objects and lists of one message."""

MAX_TEXTS: Final = 100_000
"""Most texts of one message, names of fields included."""

MAX_VALUES: Final = 250_000
"""Most values of one message. Python's own parser takes up to 100 ms for so many floats."""

MAX_BARE_BYTES: Final = 2**22
"""Most bytes of one message outside of texts. The longest integers take 20 ms a megabyte."""

TOO_MANY: Final = (
    f"The message has more than {MAX_CONTAINERS} objects and lists, {MAX_TEXTS} texts, "
    f"{MAX_VALUES} values or {MAX_BARE_BYTES} bytes outside of texts: send it in parts."
)

# What CPython takes for an empty one, and for its place in another one.
_CONTAINER_BYTES: Final = 72
_TEXT_BYTES: Final = 57
_VALUE_BYTES: Final = 32

# What is counted between two checkpoints: some milliseconds at worst.
_STEP_BYTES: Final = 2**20

# Texts of a piece. The last one may go on behind its end; what it ends with here is group 1.
_TEXT: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|(\\?)\Z)', re.DOTALL)
_REST_OF_TEXT: Final = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)


async def weigh(text: bytes) -> int | None:
    """Return what `parsed_weight` does, with a checkpoint for each megabyte after the first."""
    steps = _in_steps(text)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
        await trio.lowlevel.checkpoint()


def parsed_weight(text: bytes) -> int | None:
    """Return about how many bytes the objects of a JSON text take beside its own length.

    Args:
        text: The text; it need not be JSON.

    Returns:
        The weight, in bytes; None for a text that has too many parts.
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
        # A quote within a text is escaped, except after an escaped backslash. This is close enough.
        texts += text.count(b'"', start, end) - text.count(b'\\"', start, end)
        containers += text.count(b"{", start, end) + text.count(b"[", start, end)
        values += text.count(b",", start, end)
    texts //= 2
    if texts > MAX_TEXTS:
        return None
    if containers > MAX_CONTAINERS or values > MAX_VALUES or len(text) > MAX_BARE_BYTES:
        # Brackets and commas in texts are no parts.
        containers, values, bare = yield from _outside_of_texts(text)
        if containers > MAX_CONTAINERS or values > MAX_VALUES or bare > MAX_BARE_BYTES:
            return None
    return containers * _CONTAINER_BYTES + texts * _TEXT_BYTES + values * _VALUE_BYTES


def _outside_of_texts(text: bytes) -> Generator[None, None, tuple[int, int, int]]:
    """Return how many containers, values and bytes are outside of texts."""
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
    """Return where the text that `position` is in has ended."""
    while position < len(text):
        yield
        found = _REST_OF_TEXT.match(text, position, position + _STEP_BYTES)
        end = found.end() if found else position
        if end == position or text[end : end + 1] == b'"':
            return end + 1
        position = end
    return position
