"""What is stored of an operation, as values: its record, and what one commit changes."""

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
        run: How many calls have worked on it. It only grows, over restarts too.
        total: Number of items; None while nobody knows.
        created: Seconds since the epoch.
        last_used: The same.
        size: Bytes that are stored of it: its request, and what each commit added.
        holder: The server that works on it, or None.
        lease_until: When that server has to have renewed its lease, in seconds since the epoch.
        revision: Grows with each commit.
        stop: Whether somebody asked its holder to stop it.
        key: Names its row, and is never used for another operation; 0 before it is stored.
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
    """What one commit writes of one operation.

    Attributes:
        record: How it stands. Its revision is the one that is stored so far, 0 for none.
        outcomes: What ended since the last commit.
        size: Bytes of their results.
        started: Indexes of items that are about to start and must not be run twice.
        growth: Items that came to the operation, as JSON.
        unsure: Whether an earlier commit may have been written or not, so that nobody can tell
            which revision is stored.
        whole: Whether it has all that is known of an operation that is not stored any more.
        claim: Whether to take the operation over if its holder's lease is over.
        touch: Whether nothing is new but the time of the last use.
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
    """How a change went.

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
        place: Where the result is.
        whole: Bytes of all of it.
        start: The first byte wanted.
        size: How many are wanted; fewer come back where it ends before.
    """

    place: Place
    whole: int
    start: int
    size: int


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
