"""Servers with small operations whose work a test can follow."""

from __future__ import annotations

import sys
import threading
from contextlib import asynccontextmanager

import trio

from tests.support.servers_in_memory import connected, envelope_of
from trio_tools.operations.operation import Operation
from trio_tools.server import create_server
from trio_tools.settings import Settings

# Never ends, on SQLite and on PostgreSQL.
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"


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


async def until(condition):
    """Wait for what happens outside of the event loop, 20 s at most."""
    with trio.fail_after(20):
        while not condition():  # noqa: ASYNC110 - the machine tells nobody when it has finished
            await trio.sleep(0.0005)


def threads_at_work():
    """Return the threads beside this one that run code of this project, but for the log's."""
    found = []
    for ident, innermost in sys._current_frames().items():
        frame = innermost
        while frame is not None and "/trio_tools/" not in frame.f_code.co_filename:
            frame = frame.f_back
        is_log = frame is not None and frame.f_code.co_filename.endswith("/settings/logs.py")
        if frame is not None and ident != threading.get_ident() and not is_log:
            found.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")
    return found
