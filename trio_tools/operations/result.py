"""`Result`: what an operation returned for one item, in memory or on the disk.

A result is made in memory. When it has been committed to a state on a disk, it has a place there,
and memory may let go of its bytes at any moment. So `json` is a cache once `place` is set:

* `place is None`: `json` has the bytes. They are nowhere else, and stay.
* `place` is set and `json` has the bytes: on the disk and in memory; memory may let go of them.
* `place` is set and `json` is None: on the disk only. `StoredOperation.read` brings parts back.
"""

from __future__ import annotations

import sys
from typing import Any, Final, NamedTuple

from pydantic_core import from_json

BYTES_OBJECT_BYTES: Final = sys.getsizeof(b"")
"""What a `bytes` object takes beside its bytes."""

# The bytes of UTF-8 that begin no character.
_CONTINUATION = bytes(range(0x80, 0xC0))


class Place(NamedTuple):
    """Where a result is stored: the revision of its operation, and its first byte in that blob."""

    revision: int
    offset: int


class Result:
    """What an operation returned for one item, as JSON: as objects it could take 30 times that.

    Attributes:
        json: UTF-8; None while it is on the disk only.
        size: Bytes of it.
        is_large: Whether it is larger than a page, so that it is read in parts.
        chars: Characters of a large one; None if it is not large, or nobody has counted yet.
        place: Where it is on the disk; None if it is not there.
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
        """Return the result that has this JSON. Costs a look at each byte of a large one."""
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
        """Bytes of memory that it takes while memory has it."""
        return self.size + BYTES_OBJECT_BYTES

    def value(self) -> Any:
        """Return it as JSON values, as the answer will have them. Its bytes must be in memory."""
        assert self.json is not None
        return from_json(self.json)

    def part(self, start: int, most: int) -> str:
        """Return at most `most` characters of the JSON text from byte `start` on.

        Costs what it returns, however large the whole is. Its bytes must be in memory.
        """
        assert self.json is not None
        return text_of(self.json[start : start + 4 * most], most)


class Piece(NamedTuple):
    """Some bytes of a result: `size` from byte `start` on, or as many as there are."""

    result: Result
    start: int
    size: int

    @classmethod
    def whole(cls, result: Result) -> Piece:
        """Return all of a result."""
        return cls(result, 0, result.size)

    @classmethod
    def chars(cls, result: Result, start: int, most: int) -> Piece:
        """Return the bytes that hold at most `most` characters: a character has at most four."""
        return cls(result, start, 4 * most)


def value_of(json: bytes) -> Any:
    """Return the JSON values of a result."""
    return from_json(json)


def text_of(data: bytes, most: int) -> str:
    """Return at most `most` characters. One whose bytes are not all there is left out."""
    return data.decode(errors="ignore")[:most]


def chars_of(text: bytes) -> int:
    """Return how many characters UTF-8 has. The sum over parts is that of the whole.

    As a `str` the text could take four times as much memory.
    """
    return len(text) if text.isascii() else len(text.translate(None, _CONTINUATION))
