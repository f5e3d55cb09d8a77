"""`Result`: the result of one item, in memory or on the disk.

A result is made in memory. When it has been committed to a state on a disk, it has a location
there, and its bytes may be dropped from memory at any moment. So `json` is a cache once `place`
is set:

* `place` is None: `json` has the only copy, and stays.
* `place` is set and `json` has the bytes: on the disk and in memory; memory may drop them.
* `place` is set and `json` is None: on the disk only. `StoredOperation.read` loads parts.
"""

from __future__ import annotations

import sys
from typing import Any, Final, NamedTuple

from pydantic_core import from_json

BYTES_OBJECT_BYTES: Final = sys.getsizeof(b"")
"""Overhead of a `bytes` object in bytes."""

# The bytes of UTF-8 that do not begin a character.
_CONTINUATION = bytes(range(0x80, 0xC0))


class Place(NamedTuple):
    """The location of a stored result: its operation's revision, and its first byte in the blob."""

    revision: int
    offset: int


class Result:
    """The result of one item as JSON: as Python objects it could take 30 times the memory.

    Attributes:
        json: UTF-8; None while it is on the disk only.
        size: Its bytes.
        is_large: Whether it is larger than a page, so that it is read in parts.
        chars: Characters of a large one; None if it is not large, or not counted yet.
        place: Its location on the disk; None if it is not stored.
    """

    __slots__ = ("chars", "is_large", "json", "place", "size")

    def __init__(self, json: bytes, chars: int | None = None) -> None:
        self.json: bytes | None = json
        self.size = len(json)
        self.is_large = chars is not None
        self.chars = chars
        self.place: Place | None = None

    @classmethod
    def of_json(cls, text: bytes, *, page_bytes: int) -> Result:
        """Return the result with this JSON. Each byte of a large one is visited."""
        return cls(text, chars_of(text) if len(text) > page_bytes else None)

    @classmethod
    def on_disk(cls, size: int, place: Place, *, page_bytes: int) -> Result:
        """Return a result of `size` bytes that is on the disk only."""
        result = cls(b"")
        result.json, result.size, result.place = None, size, place
        result.is_large = size > page_bytes
        return result

    @property
    def held_bytes(self) -> int:
        """Bytes of memory that it uses while it is in memory."""
        return self.size + BYTES_OBJECT_BYTES

    def value(self) -> Any:
        """Return it as JSON values, as in the answer. Its bytes must be in memory."""
        assert self.json is not None
        return from_json(self.json)

    def part(self, start: int, most: int) -> str:
        """Return at most `most` characters of the JSON text, starting at byte `start`.

        The cost depends on the returned part, not on the whole. Its bytes must be in memory.
        """
        assert self.json is not None
        return text_of(self.json[start : start + 4 * most], most)


class Piece(NamedTuple):
    """Some bytes of a result: `size` starting at `start`, or fewer at the end."""

    result: Result
    start: int
    size: int

    @classmethod
    def whole(cls, result: Result) -> Piece:
        """Return a whole result as a piece."""
        return cls(result, 0, result.size)

    @classmethod
    def chars(cls, result: Result, start: int, most: int) -> Piece:
        """Return the bytes for at most `most` characters: a character has at most four."""
        return cls(result, start, 4 * most)


def value_of(json: bytes) -> Any:
    """Return the JSON values of a result."""
    return from_json(json)


def text_of(data: bytes, most: int) -> str:
    """Return at most `most` characters. An incomplete character is omitted."""
    return data.decode(errors="ignore")[:most]


def chars_of(text: bytes) -> int:
    """Return the number of characters in UTF-8. The sum over parts is that of the whole.

    As a `str` the text could take four times as much memory.
    """
    return len(text) if text.isascii() else len(text.translate(None, _CONTINUATION))
