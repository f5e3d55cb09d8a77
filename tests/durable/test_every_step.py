"""A store that fails at each of its steps, and a writer that is cancelled at each checkpoint.

The clock is virtual.
"""

from contextlib import closing

import pytest
import trio
import trio.testing

from nursery_patterns import Batch
from nursery_patterns.testing import cancel_at_every_checkpoint
from tests.durable.failing_store import Faults, no_threads, record
from trio_tools.answers.errors import InvalidArgument
from trio_tools.operations.durable.database import StateDatabase
from trio_tools.operations.durable.holders import new_holder
from trio_tools.operations.durable.journal import OperationJournal
from trio_tools.operations.durable.location import Location
from trio_tools.operations.durable.records import Part
from trio_tools.operations.durable.writer import Writer
from trio_tools.operations.result import Result

ITEMS = 6
LARGE = b'"' + b"x" * 1_000 + b'"'
__all__ = ["no_threads"]
pytestmark = pytest.mark.usefixtures("no_threads")
BODIES = {0: b"0", 1: LARGE, 3: b"3", 4: LARGE, 5: b"5"}  # item 2 fails


async def work(item):
    await trio.sleep(item)
    if item == 2:
        raise InvalidArgument("no")
    return Result(BODIES[item])


async def run(path, told, probe=None):
    """Run the batch over a writer; note how many outcomes were told, each time it was safe."""
    writer = Writer(Location(path), now=trio.current_time)
    journal = OperationJournal(writer, record())
    batch = Batch(work, range(ITEMS), limit=3, journal=journal)
    if probe is not None:
        probe.watch(batch)
    journal.batch = batch
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        await trio.lowlevel.checkpoint()
        writer.hold(journal)
        journal.ask(claim=True)

        async def tell():
            while True:
                await trio.sleep(0.7)
                done = batch.counts.done
                await journal.settled()
                if not writer.trouble:
                    told.append(done)

        async with trio.open_nursery() as telling:
            telling.start_soon(tell)
            await batch.run()
            telling.cancel_scope.cancel()
        writer.release(journal)
        while journal.has_news:
            await journal.settled()
            await trio.sleep(1)
        told.append(batch.counts.done)
        nursery.cancel_scope.cancel()
    return journal


def stored(path):
    """Return the bodies of all stored results by index, and how many items failed."""
    with closing(StateDatabase(Location(path), new_holder())) as database:
        found = database.load("me", "op")
        if found is None:
            return {}, 0
        loaded, there = found
        bodies = {}
        for index, outcome in there.ended.items():
            body = outcome.json
            if body is None:
                (body,) = database.read(
                    loaded.key, [Part(outcome.place, outcome.size, 0, outcome.size)]
                )
            bodies[index] = body
        failed = [index for index in bodies if index == 2]
        bodies.pop(2, None)
        assert (loaded.succeeded, loaded.failed) == (len(bodies), len(failed))
        return bodies, len(failed)


def run_with(path, told):
    return trio.run(run, path, told, clock=trio.testing.MockClock(autojump_threshold=0))


def test_whichever_steps_fail_all_is_written_and_what_was_told_was_safe(tmp_path, monkeypatch):
    faults = Faults(monkeypatch)
    run_with(tmp_path / "none.db", [])
    count = faults.steps
    assert count > 20
    for lasting, every in ((1, 1), (4, 5)):  # a fault of one step, and one that lasts
        for first in range(1, count + 1, every):
            path = tmp_path / f"{lasting}.{first}.db"
            faults.steps, faults.failing = 0, frozenset(range(first, first + lasting))
            told = []
            journal = run_with(path, told)
            faults.failing = frozenset()
            assert stored(path) == (BODIES, 1), f"step {first} of {count} failed"
            assert told[-1] == ITEMS
            assert told == sorted(told)
            assert journal.let_go(10**9) == 2 * (len(LARGE) + 33)  # both are on the disk
            assert not any(
                outcome.value.json
                for outcome in journal.batch.report().outcomes
                if outcome.index in {1, 4}
            )


def test_cancelled_at_any_checkpoint_what_was_told_is_stored(tmp_path):
    runs = iter(range(10_000))
    path, told = tmp_path / "x", []

    async def scenario(probe):
        nonlocal path, told
        path, told = tmp_path / f"{next(runs)}.db", []
        await run(path, told, probe)

    async def after(probe):
        del probe
        await trio.lowlevel.checkpoint()
        bodies, failed = stored(path) if path.exists() else ({}, 0)
        assert len(bodies) + failed >= max(told, default=0)
        assert bodies.items() <= BODIES.items()

    assert cancel_at_every_checkpoint(scenario, after=after) > 30
