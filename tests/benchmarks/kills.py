"""kill -9 at random moments of batches of 2,000 items: what was told is stored and done once.

    python -m tests.benchmarks kills [--kills N] [--seed N] [--postgres URL]

Under stdio and HTTP, with SQLite and, given a URL, PostgreSQL. A server is started, does a part of
a batch, and is killed; the next one gets the same call with the same id, until the batch is
complete, and then another batch begins. After each kill:

* the database opens and is whole, and holds at least as many outcomes as were told;
* the next server begins with what is stored: its first message tells no fewer;
* it does no item again that is stored.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import secrets
import sqlite3
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from tests.processes.running import http_process, stdio_process
from tests.transports.lines import call
from tests.transports.requests import connect, modern_call
from trio_tools.operations.durable.database import StateDatabase
from trio_tools.operations.durable.holders import new_holder
from trio_tools.operations.durable.location import Location

ITEMS = 2_000
_SERVER = "tests.benchmarks.kills_server"
_PROGRESS = re.compile(rb'"progress":(\d+)')
_COMPLETE = re.compile(rb'"complete":(?:true|false)')


@dataclass
class Life:
    """What a client saw of one server."""

    told: list[int] = field(default_factory=list[int])
    answered: bytes = b""


@dataclass
class Campaign:
    """Kills of servers of one transport and one state.

    Attributes:
        way: `stdio` or `http`.
        url: Of the state.
        marks: The file that names each item that was done, as often as it was.
        items: Of a batch.
        nap: Seconds that an item takes.
        most_seconds: Most seconds from the first message of a batch until the kill.
        kills: How many there were.
        again: How many items were done again, since they were not stored yet.
    """

    way: str
    url: str
    marks: Path
    items: int = ITEMS
    nap: float = 0.002
    most_seconds: float = 4.0
    kills: int = 0
    batches: int = 0
    again: int = 0

    async def run(self, kills: int, moments: random.Random) -> None:
        """Kill so often.

        Raises:
            AssertionError: Something was lost or done twice.
        """
        while self.kills < kills:
            await self._batch(kills, moments)
            self.batches += 1

    async def _batch(self, kills: int, moments: random.Random) -> None:
        name = secrets.token_hex(8)
        stored: set[int] = set()
        while True:
            done_before = len(self._marked())
            more = self.kills < kills
            life = await self._life(name, moments.uniform(0, self.most_seconds) if more else 120.0)
            done = self._marked()[done_before:]
            assert not stored & set(done), "an item was done again that was stored"
            if stored and life.told:
                assert life.told[0] >= len(stored), "a restart told less than was stored"
            after = self._stored(name)
            assert stored <= after, "a stored outcome is gone"
            assert len(after) >= max(life.told, default=0), "what was told is not stored"
            stored = after
            if life.answered:
                assert len(stored) == self.items, "the answer came before the end"
                assert b'"succeeded":%d,' % self.items in life.answered.replace(b" ", b"")
                self.again += len(self._marked()) - self.items
                self.marks.unlink()
                return
            self.kills += 1

    async def _life(self, name: str, seconds: float) -> Life:
        """Start a server, call it, and kill it so long after its first message.

        It may end its work before.
        """
        life = Life()
        os.environ |= {
            "MARKS": str(self.marks),
            "NAP": str(self.nap),
        }  # read before anything is awaited
        asked: dict[str, Any] = {
            "operation": "mark",
            "items": [*range(self.items)],
            "operation_id": name,
            "max_concurrent": 10,
            "timeout_seconds": 100,
        }
        start = stdio_process if self.way == "stdio" else http_process
        settings = {"state__url": self.url, "max_items": self.items}
        async with (
            start(module=_SERVER, **settings) as server,
            AsyncExitStack() as closing_stream,
        ):
            if self.way == "stdio":
                stream = server.process.stdio
                await server.client.write(call(7, "batch_process", token="t", **asked))
            else:
                stream = await closing_stream.enter_async_context(await connect(server.address))
                await stream.send_all(modern_call(7, "batch_process", token="t", **asked))
            with trio.fail_after(120):
                await _read(stream, life, until_told=True)
            with trio.move_on_after(seconds):
                await _read(stream, life)
            server.process.kill()
            await server.process.wait()
            if not life.answered:  # what is on its way was told too
                with trio.move_on_after(0.5):  # a fork of the same parent may hold the pipe
                    await _read(stream, life)
        return life

    def _marked(self) -> list[int]:
        return [*map(int, self.marks.read_text().split())] if self.marks.exists() else []

    def _stored(self, name: str) -> set[int]:
        location = Location.of_url(self.url)
        assert location is not None
        if location.path is not None:
            if not location.path.exists():
                return set()
            with closing(sqlite3.connect(location.path)) as database:
                assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        with closing(StateDatabase(location, new_holder())) as state:
            owners = [one.owner for one in state.records() if one.operation_id == name]
            found = state.load(owners[0], name) if owners else None
        if found is None:
            return set()
        record, stored = found
        ended = stored.ended
        assert record.succeeded == len(ended), "counts do not add up"
        return set(ended)


async def _read(stream: trio.abc.ReceiveStream, life: Life, *, until_told: bool = False) -> None:
    """Read until the answer or the end, or only until a message tells how many items are done."""
    received = b""
    while True:
        try:
            data = bytes(await stream.receive_some())
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        if not data:
            return
        received += data
        assert b'"isError":true' not in received, received
        if _COMPLETE.search(received):
            life.answered = received
        *whole, received = received.split(b"\n")
        for line in whole:
            life.told += map(int, _PROGRESS.findall(line))
        if life.answered or (until_told and life.told):
            return


def run(argv: Sequence[str] = ()) -> int:
    """Kill, print how often, and return 0 if nothing was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks kills")
    parser.add_argument("--kills", type=int, default=5, help="of each transport and state")
    parser.add_argument("--seed", type=int, default=None, help="of the moments")
    parser.add_argument("--postgres", default=None, help="URL of a database to use too")
    options = parser.parse_args(argv)
    seed = time.time_ns() if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    moments = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        urls = {"SQLite": f"sqlite:///{folder}/operations.db", "PostgreSQL": options.postgres}
        for state, url in urls.items():
            for way in ("stdio", "http") if url else ():
                campaign = Campaign(way, url, Path(folder, "marks"))
                trio.run(campaign.run, options.kills, moments)
                print(
                    f"{way:5} {state:10} {campaign.kills} kills of {campaign.batches} batches: "
                    f"nothing lost, {campaign.again} items not stored yet were done again",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
