"""Values that are stored of an operation: its record, and the changes of one commit."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from trio_tools.operations.result import Place, Result

AnyOutcome = Any
"""An `Outcome` whose value, if it succeeded, is a `Result`."""


@dataclass(kw_only=True)
class Record:
    """The stored record of one operation, without its outcomes.

    Attributes:
        owner: The client that may see it.
        operation_id: Its id for the client.
        tool: The tool that was called.
        name: The name of the operation that runs for each item.
        schema: Digest of the schema of an item; another digest means that the function has
            changed.
        request: The request, as JSON.
        options: Options of the background run, as JSON.
        background: Whether a server resumes it when no server runs it.
        run: Number of calls that have run it. It only grows, also over restarts.
        total: Number of items; None while unknown.
        created: Seconds since the epoch.
        last_used: The same.
        size: Bytes that are stored of it: its request, and what each commit added.
        holder: The server that works on it, or None.
        lease_until: When that server has to have renewed its lease, in seconds since the epoch.
        revision: Grows with each commit.
        stop: Whether its holder was asked to stop it.
        key: Key of its row, never used for another operation; 0 before it is stored.
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
    key: int = 0


@dataclass
class Change:
    """The changes of one operation in one commit.

    Attributes:
        record: The current record. Its revision is the stored one, 0 for none.
        outcomes: Items that ended since the last commit.
        size: Bytes of their results.
        started: Indexes of items that are about to start and must not run twice.
        growth: Added items, as JSON.
        unsure: Whether an earlier commit has an unknown result, so that the stored revision is
            unknown.
        whole: Whether it contains everything of an operation that is no longer stored.
        claim: Whether to take the operation over if its holder's lease has expired.
        touch: Whether only the time of the last use is new.
    """

    record: Record
    outcomes: list[AnyOutcome] = field(default_factory=list[AnyOutcome])
    size: int = 0
    started: list[int] = field(default_factory=list[int])
    growth: list[bytes] = field(default_factory=list[bytes])
    unsure: bool = False
    whole: bool = False
    claim: bool = False
    touch: bool = False


REFUSED = 0
GONE = -1


class Saved(NamedTuple):
    """The result of a change.

    Attributes:
        revision: Of the operation as it is stored now; or `REFUSED`, since another server holds it
            or has changed it; or `GONE`, since it was deleted, and has to be written whole.
        holder: Who holds the operation, if it was refused for that.
        stop: Whether somebody asked the holder to stop it.
        key: Names its row.
        size: Bytes that the commit added.
        placed: The results that memory may let go of, and where each is now.
    """

    revision: int
    holder: str | None = None
    stop: bool = False
    key: int = 0
    size: int = 0
    placed: list[tuple[Result, Place]] = []  # noqa: RUF012 - never changed


class Part(NamedTuple):
    """Some bytes of a stored result: `size` from byte `start` on.

    Attributes:
        place: Location of the result.
        whole: Size of the whole result in bytes.
        start: The first requested byte.
        size: Number of requested bytes; fewer are returned at the end of the result.
    """

    place: Place
    whole: int
    start: int
    size: int


def schema_mark(schema: dict[str, Any]) -> str:
    """Return a short digest of the schema of an item."""
    return hashlib.sha256(json.dumps(schema, sort_keys=True).encode()).hexdigest()[:16]


class Use(NamedTuple):
    """The use of a client to be counted by all servers of a state together.

    Attributes:
        client: Its name.
        day: Days since 1970, UTC.
        calls: Number of calls to add.
        items: Number of items to add.
        takes_call: Whether to accept one more call, if the quota allows it.
        most_calls: The quota of calls; None for no limit.
        most_items: The quota of items, after which no call is accepted; None for no limit.
    """

    client: str
    day: int
    calls: int = 0
    items: int = 0
    takes_call: bool = False
    most_calls: int | None = None
    most_items: int | None = None


class Counted(NamedTuple):
    """The use of a client on one day.

    Attributes:
        calls: Over all servers.
        items: Over all servers.
        taken: Whether the call was accepted.
    """

    calls: int
    items: int
    taken: bool


def plain_name(text: str) -> str:
    """Return an ASCII text that every database accepts, and that is different for each text."""
    return json.dumps(text)[1:-1]


def restored_name(text: str) -> str:
    """Return the text that `plain_name` encoded."""
    return json.loads(f'"{text}"')
