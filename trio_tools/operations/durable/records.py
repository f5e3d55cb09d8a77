"""Operations and outcomes as bytes. Plain functions: some run in the thread that writes."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

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

# Index, how it ended, seconds, bytes of what follows.
_HEAD = struct.Struct("<IcdI")
_STARTED = b"?"
_GROWTH = b"i"
_SUCCEEDED = b"+"
_CODES = {Status.SUCCEEDED: _SUCCEEDED, Status.FAILED: b"-", Status.TIMED_OUT: b"t"}
_STATUSES = {code: status for status, code in _CODES.items()}

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


AnyOutcome = Any
"""An `Outcome` whose value, if it succeeded, has its JSON as `json`."""


@dataclass(kw_only=True)
class Record:
    """What is stored of one operation beside its outcomes.

    Attributes:
        owner: The client that may see it.
        operation_id: As the client knows it.
        tool: The tool that was called.
        name: Of the operation that is done to each item.
        schema: Stands for the schema of an item; another one means that the function has changed.
        request: What was asked, as JSON.
        options: How it goes on in the background, as JSON.
        background: Whether a server takes it up when nobody works on it.
        run: How many calls have worked on it.
        total: Number of items; None while nobody knows.
        created: Seconds since the epoch.
        last_used: The same.
        size: Bytes of memory that it takes, about.
        holder: The server that works on it, or None.
        lease_until: When that server has to have renewed its lease, in seconds since the epoch.
        revision: Grows with each commit.
        stop: Whether somebody asked its holder to stop it.
    """

    owner: str
    operation_id: str
    tool: str
    name: str
    schema: str
    request: bytes
    options: bytes = b"{}"
    background: bool = False
    run: int = 0
    total: int | None = None
    succeeded: int = 0
    failed: int = 0
    timed_out: int = 0
    created: float = 0.0
    last_used: float = 0.0
    size: int = 0
    holder: str | None = None
    lease_until: float = 0.0
    revision: int = 0
    stop: bool = False


@dataclass
class Change:
    """What one commit writes of one operation.

    Attributes:
        record: How it stands. Its revision is the one that is stored so far, 0 for none.
        outcomes: What ended since the last commit.
        size: Bytes of their results.
        started: Indexes of items that are about to start and must not be run twice.
        growth: Items that came to the operation, as JSON.
        replace: Whether the outcomes take the place of all that are stored.
        claim: Whether to take the operation over if its holder's lease is over.
        touch: Whether nothing is new but the time of the last use.
    """

    record: Record
    outcomes: list[AnyOutcome] = field(default_factory=list[AnyOutcome])
    size: int = 0
    started: list[int] = field(default_factory=list[int])
    growth: list[bytes] = field(default_factory=list[bytes])
    replace: bool = False
    claim: bool = False
    touch: bool = False


@dataclass(frozen=True, slots=True)
class StoredOutcome:
    """An outcome as it was read back. `json` is its result, or its failure."""

    index: int
    status: Status
    elapsed: float
    json: bytes

    def failure(self) -> Exception:
        """Return the error of an item that has no result."""
        if self.status is Status.TIMED_OUT:
            return trio.TooSlowError(from_json(self.json))
        told = from_json(self.json)
        failure = _FAILURES[told["type"]](
            told["message"],
            error_code=told["code"],
            remediation=told["remediation"],
            data=told["data"],
        )
        failure.rate_limit = told["rate_limit"]
        return failure


def encode(change: Change) -> bytes:
    """Return the outcomes of a change as one blob."""
    parts: list[bytes] = []
    for growth in change.growth:
        parts += (_HEAD.pack(0, _GROWTH, 0.0, len(growth)), growth)
    parts += [_HEAD.pack(index, _STARTED, 0.0, 0) for index in change.started]
    pack = _HEAD.pack
    for outcome in change.outcomes:
        if outcome.error is None:  # by far the most; to hash a status costs as much as the rest
            code, body = _SUCCEEDED, outcome.value.json
        else:
            code, body = _CODES[outcome.status], _failure_json(outcome.error)
        parts += (pack(outcome.index, code, outcome.elapsed, len(body)), body)
    return b"".join(parts)


class Stored(NamedTuple):
    """What was stored of an operation beside its record.

    Attributes:
        ended: The outcomes, by index.
        started: Items that were started and did not end.
        growth: Items that came to it, as JSON, in their order.
    """

    ended: dict[int, StoredOutcome]
    started: set[int]
    growth: list[bytes]


def decode(blobs: Iterable[bytes]) -> Stored:
    """Return what the blobs of an operation hold. They are in the order of their commits."""
    ended: dict[int, StoredOutcome] = {}
    started: set[int] = set()
    growth: list[bytes] = []
    for blob in blobs:
        for index, code, elapsed, body in _frames(blob):
            if code == _STARTED:
                started.add(index)
            elif code == _GROWTH:
                growth.append(body)
            else:
                ended[index] = StoredOutcome(index, _STATUSES[code], elapsed, body)
    return Stored(ended, started - ended.keys(), growth)


def _frames(blob: bytes) -> Iterator[tuple[int, bytes, float, bytes]]:
    at = 0
    while at < len(blob):
        index, code, elapsed, size = _HEAD.unpack_from(blob, at)
        at += _HEAD.size
        yield index, code, elapsed, blob[at : at + size]
        at += size


def growth_json(growth: Mapping[str, Any]) -> bytes:
    """Return items that came to an operation as JSON, from which they can be made again."""
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


def schema_mark(schema: dict[str, Any]) -> str:
    """Return a short text that stands for the schema of an item."""
    return hashlib.sha256(json.dumps(schema, sort_keys=True).encode()).hexdigest()[:16]


class Use(NamedTuple):
    """What is to be counted of a client, by all servers of a state together.

    Attributes:
        client: Its name.
        day: Days since 1970, UTC.
        calls: To add.
        items: To add.
        takes_call: Whether one more call is to be taken, if the quota allows it.
        most_calls: The quota of calls; None for any number.
        most_items: The quota of items, after which no call is taken; None for any number.
    """

    client: str
    day: int
    calls: int = 0
    items: int = 0
    takes_call: bool = False
    most_calls: int | None = None
    most_items: int | None = None


class Counted(NamedTuple):
    """What a client has used on a day.

    Attributes:
        calls: Over all servers.
        items: Over all servers.
        taken: Whether the call was taken.
    """

    calls: int
    items: int
    taken: bool


def plain_name(text: str) -> str:
    """Return a text in ASCII that no database refuses, and that differs where the text does."""
    return json.dumps(text)[1:-1]


def restored_name(text: str) -> str:
    """Return what `plain_name` made its text of."""
    return json.loads(f'"{text}"')


# Who holds an operation: machine, process, and a token of the server. On one machine another
# server can tell that a holder has died, and does not wait for its lease to end.


@cache
def _this_machine() -> str:
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    return ""


def _started_at(pid: int) -> str:
    """Return when a process started, in ticks since boot; empty if there is none."""
    with suppress(OSError, IndexError):
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace")
        state, *rest = text.rpartition(")")[2].split()
        return "" if state == "Z" else rest[18]
    return ""


def new_holder() -> str:
    """Return a name for a server of this process."""
    pid = os.getpid()
    return f"{_this_machine()}|{pid}|{_started_at(pid)}|{secrets.token_hex(8)}"


def has_died(holder: str) -> bool:
    """Whether the process of a holder is known to have ended. False if nobody can know."""
    machine, _, rest = holder.partition("|")
    pid, _, rest = rest.partition("|")
    started, _, _ = rest.partition("|")
    if not machine or machine != _this_machine() or not pid.isdigit() or not started:
        return False
    return _started_at(int(pid)) != started
