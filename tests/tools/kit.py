"""Servers with small operations whose work a test can follow."""

from __future__ import annotations

from contextlib import asynccontextmanager

import trio

from tests.server.kit import connected, envelope_of
from trio_tools.operations.base import Operation
from trio_tools.server import create_server
from trio_tools.settings import Settings


class Trace:
    """Remembers which items an operation began and finished."""

    def __init__(self):
        self.begun = []
        self.finished = []

    async def nap(self, seconds: float) -> float:
        """Wait that many seconds; a negative number fails at once."""
        self.begun.append(seconds)
        if seconds < 0:
            raise ZeroDivisionError("the text of a defect")
        await trio.sleep(seconds)
        self.finished.append(seconds)
        return seconds


def server_with(*operations, **settings):
    return create_server(Settings(**settings), operations=operations)


def nap_server(**settings):
    """Return a server with the operation `nap`, and the trace of its items."""
    trace = Trace()
    return server_with(Operation(name="nap", fn=trace.nap), **settings), trace


@asynccontextmanager
async def calling(server, era="auto"):
    """Give a function that calls a tool and returns its envelope."""
    async with connected(server, era) as client:

        async def call(name, **arguments):
            return await envelope_of(client, name, arguments)

        yield call


def total(counts):
    """Add up the statuses, which must come to the total."""
    names = ("succeeded", "failed", "timed_out", "cancelled", "not_started")
    assert sum(counts[name] for name in names) == counts["total"]
    return counts["total"]
