"""The conservation suite of the engine again, over a store on the disk, also over one that fails.

Whatever happens to a batch, every item ends in exactly one outcome, nothing is left, and in the end
the disk holds the same. A restart repeats nothing that is stored.
"""

import json
import math
import shutil
from collections import Counter
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nursery_patterns import Batch, Outcome
from nursery_patterns.testing import cancel_at_every_checkpoint
from tests.durable.failing_store import Faults, no_threads, record
from tests.patterns.test_conservation import (
    N,
    Once,
    batches,
    check,
    seconds,
    shared,
    timed,
)
from tests.support.policies import AsyncItems
from trio_tools.answers.errors import InvalidArgument
from trio_tools.operations.durable.database import StateDatabase
from trio_tools.operations.durable.holders import new_holder
from trio_tools.operations.durable.journal import OperationJournal
from trio_tools.operations.durable.location import Location
from trio_tools.operations.durable.writer import LEASE_SECONDS, Writer
from trio_tools.operations.result import Result

__all__ = ["no_threads"]
pytestmark = pytest.mark.usefixtures("no_threads")

NEVER = frozenset()
OFTEN = frozenset({2, 3, 9, 15, 16, 28, 40})


class Life:
    """A batch over a store, as one process has it. The next life begins with what is stored."""

    def __init__(self, path, fn, items, *, watch=lambda batch: batch, **options):
        self.path = path
        self.writer = Writer(Location(path), now=trio.current_time)
        found = load(path)
        outcomes = [] if found is None else [restored(ended) for ended in found[1].ended.values()]
        self.restored = len(outcomes)
        self.journal = OperationJournal(
            self.writer, record() if found is None else found[0], outcomes
        )
        self.batch = watch(Batch(storable(fn), items, journal=self.journal, **options))
        self.journal.batch = self.batch

    @asynccontextmanager
    async def working(self):
        """Work within the block, with a task that writes."""
        # As in a server, the task that writes ends after those whose outcomes it writes.
        writing = trio.CancelScope(shield=True, deadline=trio.current_time() + 100_000)

        async def write():
            with writing:
                await self.writer.run()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            try:
                await trio.lowlevel.checkpoint()
                self.writer.hold(self.journal)
                self.journal.ask(claim=True)
                yield
                self.writer.release(self.journal)
                while self.journal.has_news:
                    await self.journal.settled()
                    await trio.sleep(1)  # until a state in trouble is tried again
            finally:
                self.writer.release(self.journal)
                writing.cancel()

    def assert_stored(self):
        """The disk holds each outcome of the batch, as it is in memory."""
        there, stored = load(self.path)
        known = {o.index: o for o in self.batch.report().outcomes}
        assert {i: ended.status for i, ended in stored.ended.items()} == {
            i: o.status for i, o in known.items()
        }
        assert {i: ended.json for i, ended in stored.ended.items() if known[i].succeeded} == {
            i: o.value.json for i, o in known.items() if o.succeeded
        }
        counts = self.batch.counts
        assert (there.succeeded, there.failed, there.timed_out) == (
            counts.succeeded,
            counts.failed,
            counts.timed_out,
        )


def storable(fn):
    """Return the function of an item with results and failures as a store takes them."""

    async def run(item):
        try:
            return Result(json.dumps(await fn(item)).encode())
        except ValueError as error:
            raise InvalidArgument(f"{error}") from None

    return run


def plain(outcome):
    """Return an outcome as the function of the item made it."""
    value = None if outcome.value is None else json.loads(outcome.value.json)
    error = outcome.error
    if isinstance(error, InvalidArgument):
        error = ValueError(json.loads(error.message))
    return Outcome(outcome.index, outcome.item, outcome.status, value, error, outcome.elapsed)


def restored(ended):
    value = ended.result(page_bytes=10_000) if ended.status == "succeeded" else None
    error = None if value is not None else ended.failure()
    return Outcome(ended.index, ended.index, ended.status, value, error, ended.elapsed)


def load(path):
    if not path.exists():
        return None
    with closing(StateDatabase(Location(path), new_holder())) as database:
        return database.load("me", "op")


@pytest.mark.parametrize(
    ("capacity", "failing"),
    [
        pytest.param(timed, NEVER, id="timed"),
        pytest.param(shared, OFTEN, id="shared-failing"),
    ],
)
def test_a_run_cancelled_at_any_checkpoint_is_completed_by_the_next_and_by_a_restart(
    capacity, failing, tmp_path, monkeypatch
):
    template = tmp_path / "template.db"  # to make the tables takes longer than all the rest
    with closing(StateDatabase(Location(template), new_holder())) as database:
        database.key()
    faults = Faults(monkeypatch)
    runs = iter(range(10_000))

    async def scenario(probe):
        faults.failing = NEVER
        fn = probe.kept["fn"] = Once()
        path = Path(shutil.copy(template, tmp_path / f"{next(runs)}.db"))
        life = Life(path, fn, AsyncItems(N), watch=probe.watch, **capacity(probe))
        probe.kept["life"] = life
        faults.steps, faults.failing = 0, failing
        async with life.working():
            await life.batch.run()

    async def after(probe):
        faults.failing = NEVER
        life, fn = probe.kept["life"], probe.kept["fn"]
        await trio.sleep(LEASE_SECONDS + 1)  # nobody could say that the first one has ended
        # A process that begins now repeats what is not stored, and nothing else.
        first = Counter(fn.finished)
        other = Life(life.path, fn, AsyncItems(N), limit=3, item_timeout=life.batch.item_timeout)
        async with other.working():
            report = await other.batch.run()
        assert report.complete
        other.assert_stored()
        repeated = Counter(fn.finished) - first
        if capacity is not timed:
            assert sum(repeated.values()) == N - other.restored
            assert {plain(o).value for o in report.outcomes if o.index % 4 != 3} == {
                0, -1, -2, -4, -5,
            }  # fmt: skip
        # The process that goes on has its own outcomes, and does only what is missing.
        report = await life.batch.run()
        assert report.complete
        assert [o.item for o in report.outcomes] == list(range(N))

    assert cancel_at_every_checkpoint(scenario, after=after) > 10


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches, seconds, st.sets(st.integers(1, 60), max_size=12))
def test_any_items_any_limits_any_cuts_any_failures_of_the_store(
    tmp_path_factory, spec, pause, failing
):
    path = tmp_path_factory.mktemp("state") / "operations.db"

    async def main():
        items, finished = spec["items"], []

        async def fn(item):
            value = await item.run()
            finished.append(item)
            return value

        limiter = None if spec["tokens"] is None else trio.CapacityLimiter(spec["tokens"])
        source = iter(items) if spec["lazy"] else items
        limits = {"limit": spec["limit"], "limiter": limiter, "item_timeout": spec["item_timeout"]}
        life = Life(path, fn, source, **limits)
        with trio.fail_after(10_000):
            await run_through(life)
        assert life.batch.report().complete
        assert len(finished) == life.batch.counts.succeeded
        faults.failing = NEVER
        if items:
            life.assert_stored()

    async def run_through(life):
        async with life.working():
            for cut in (*spec["cuts"], math.inf):
                with trio.move_on_after(cut):
                    await life.batch.run()
                check(life.batch, spec["items"], [], plain)
                await trio.sleep(pause)

    with pytest.MonkeyPatch.context() as patch:
        faults = Faults(patch)
        faults.failing = frozenset(failing)
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
