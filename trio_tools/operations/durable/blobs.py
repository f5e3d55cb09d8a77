"""The outcomes of one commit as one blob of bytes, and the reading of blobs.

A blob is a sequence of frames: a header of fixed size (index of the item, status code, seconds,
bytes of the body) and the body. The body of a result is its JSON, so a part of a result is a part
of the blob. Only the headers are read to find a result; the bodies stay on the disk.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import trio
from pydantic_core import from_json, to_json

from nursery_patterns import Status
from trio_tools.answers.errors import (
    ErrorType,
    Forbidden,
    InvalidArgument,
    NotFound,
    RateLimited,
    ServerOverloaded,
    TimedOut,
    ToolFailure,
    UpstreamFailed,
)
from trio_tools.operations.durable.records import Change, Part
from trio_tools.operations.result import Place, Result

KEPT_BYTES: Final = 256
"""Results up to this size stay in memory: a reference to them would take as much."""

# Index, status code, seconds, bytes of the body.
_HEAD = struct.Struct("<IcdI")
_STARTED = b"?"
_GROWTH = b"i"
_SUCCEEDED = b"+"
_CODES = {Status.SUCCEEDED: _SUCCEEDED, Status.FAILED: b"-", Status.TIMED_OUT: b"t"}
_STATUSES = {code: status for status, code in _CODES.items()}

# Bytes of a blob that are read at a time.
_WINDOW_BYTES = 2**18

_FAILURES: dict[str, type[ToolFailure]] = {
    ErrorType.VALIDATION: InvalidArgument,
    ErrorType.TIMEOUT: TimedOut,
    ErrorType.OVERLOADED: ServerOverloaded,
    ErrorType.RATE_LIMITED: RateLimited,
    ErrorType.NOT_FOUND: NotFound,
    ErrorType.FORBIDDEN: Forbidden,
    ErrorType.UPSTREAM: UpstreamFailed,
    ErrorType.INTERNAL: ToolFailure,
}


@dataclass(frozen=True, slots=True)
class StoredOutcome:
    """An outcome that was read from a blob.

    Attributes:
        index: Index of its item.
        status: Its status.
        elapsed: Its duration in seconds.
        size: Bytes of its result, or of its failure.
        json: These bytes; None for a result that was left on the disk.
        place: Its location on the disk.
    """

    index: int
    status: Status
    elapsed: float
    size: int
    json: bytes | None
    place: Place

    def result(self, *, page_bytes: int) -> Result:
        """Return the result of a succeeded item."""
        if self.json is None:
            return Result.on_disk(self.size, self.place, page_bytes=page_bytes)
        return Result.of_json(self.json, page_bytes=page_bytes)

    def failure(self) -> Exception:
        """Return the error of an item without a result."""
        told = from_json(self.json or b"null")
        if self.status is Status.TIMED_OUT:
            return trio.TooSlowError(told)
        failure = _FAILURES[told["type"]](
            told["message"],
            error_code=told["code"],
            remediation=told["remediation"],
            data=told["data"],
        )
        failure.rate_limit = told["rate_limit"]
        return failure


@dataclass
class Stored:
    """The stored outcomes and items of an operation, beside its record.

    Attributes:
        ended: The outcomes, by index.
        started: Items that were started and have not ended.
        growth: Items that were added, as JSON, in their order.
    """

    ended: dict[int, StoredOutcome] = field(default_factory=dict[int, StoredOutcome])
    started: set[int] = field(default_factory=set[int])
    growth: list[bytes] = field(default_factory=list[bytes])

    def add(self, revision: int, size: int, read: Callable[[int, int], bytes]) -> None:
        """Add the content of a blob. Blobs must be added in the order of their commits.

        Args:
            revision: The revision of the operation with that commit.
            size: Bytes of the blob.
            read: Returns bytes of the blob: `read(start, size)`.
        """
        for index, code, elapsed, offset, body_size, body in _frames(size, read):
            if code == _STARTED:
                self.started.add(index)
                continue
            if code == _GROWTH:
                self.growth.append(body or b"")
                continue
            place = Place(revision, offset)
            ended = StoredOutcome(index, _STATUSES[code], elapsed, body_size, body, place)
            self.ended[index] = ended  # a later run of a failed item, or a duplicate
            self.started.discard(index)


def encode(change: Change) -> tuple[bytes, list[tuple[Result, int]]]:
    """Return the outcomes of a change as one blob, and the start of each larger result in it."""
    parts: list[bytes] = []
    for growth in change.growth:
        parts += (_HEAD.pack(0, _GROWTH, 0.0, len(growth)), growth)
    parts += [_HEAD.pack(index, _STARTED, 0.0, 0) for index in change.started]
    at = sum(map(len, parts))
    larger: list[tuple[Result, int]] = []
    pack, head_size = _HEAD.pack, _HEAD.size
    for outcome in change.outcomes:
        if outcome.error is None:  # the common case; hashing a status costs as much as the rest
            code, body = _SUCCEEDED, outcome.value.json
        else:
            code, body = _CODES[outcome.status], _failure_json(outcome.error)
        size = len(body)
        if size > KEPT_BYTES and code == _SUCCEEDED:
            larger.append((outcome.value, at + head_size))
        parts += (pack(outcome.index, code, outcome.elapsed, size), body)
        at += head_size + size
    return b"".join(parts), larger


def read_part(part: Part, read: Callable[[int, int], bytes]) -> bytes | None:
    """Return some bytes of a result; None if they are not at the expected place.

    Args:
        part: The requested bytes.
        read: Returns bytes of the blob: `read(start, size)`.
    """
    offset = part.place.offset
    head = read(offset - _HEAD.size, _HEAD.size)
    if len(head) < _HEAD.size or _HEAD.unpack(head)[1::2] != (_SUCCEEDED, part.whole):
        return None
    return read(offset + part.start, max(0, min(part.size, part.whole - part.start)))


def _frames(
    size: int, read: Callable[[int, int], bytes]
) -> Iterator[tuple[int, bytes, float, int, int, bytes | None]]:
    """Yield index, code, seconds, offset and size of the body; and the body, unless large."""
    window, begin, at = b"", 0, 0

    def take(start: int, count: int) -> bytes:
        nonlocal window, begin
        if start + count > begin + len(window):
            begin, window = start, read(start, max(count, _WINDOW_BYTES))
        return window[start - begin : start - begin + count]

    while at < size:
        index, code, elapsed, body_size = _HEAD.unpack(take(at, _HEAD.size))
        at += _HEAD.size
        stays = code == _SUCCEEDED and body_size > KEPT_BYTES
        yield index, code, elapsed, at, body_size, None if stays else take(at, body_size)
        at += body_size


def growth_json(growth: Mapping[str, Any]) -> bytes:
    """Return added items as JSON, from which they can be restored."""
    return to_json(growth, fallback=repr, inf_nan_mode="constants")


def _failure_json(error: Exception) -> bytes:
    if not isinstance(error, ToolFailure):
        return to_json(str(error))
    told = {
        "type": error.error_type,
        "message": error.message,
        "code": error.error_code,
        "remediation": error.remediation,
        "data": error.data,
        "rate_limit": error.rate_limit,
    }
    return to_json(told, inf_nan_mode="null", fallback=repr)
