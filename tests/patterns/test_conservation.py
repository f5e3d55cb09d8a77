"""Whatever happens to a batch, every item ends in exactly one outcome, and nothing is left."""

import math
from dataclasses import dataclass

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from nursery_patterns import Batch, Limits, Status, TokenBucket
from nursery_patterns.testing import (
    InFlightGauge,
    cancel_at_every_checkpoint,
    expire_at_every_instant,
)
from tests.support.policies import AsyncItems, GeneratorItems, IteratorItems, SizedItems

# --- cancelled at every checkpoint ---------------------------------------------------------------


class Once:
    """An item function that finds out whether a finished item ran again."""

    def __init__(self):
        self.finished = []

    async def __call__(self, i):
        await trio.sleep(i % 3)
        if i % 4 == 3:
            self.finished.append(i)
            raise ValueError(i)
        await trio.lowlevel.checkpoint()
        self.finished.append(i)
        return -i

    def assert_each_once(self, n):
        assert sorted(self.finished) == list(range(n)), self.finished


def own(probe):
    return {"limit": 3}


def shared(probe):
    return {"limit": 3, "limiter": probe.watch(Limits(default=2))["shared"]}


def paced(probe):
    return {"limit": 3, "bucket": probe.watch(TokenBucket(rate=2, capacity=2))}


def timed(probe):
    return {"limit": 3, "item_timeout": 1.5}


capacities = pytest.mark.parametrize("capacity", [own, shared, paced, timed])
sources = pytest.mark.parametrize("source", [SizedItems, IteratorItems, AsyncItems])
N = 6


@capacities
@sources
@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_cancelled_at_any_checkpoint_is_completed_by_the_next(capacity, source, seed):
    async def scenario(probe):
        fn = probe.kept["fn"] = Once()
        batch = probe.kept["batch"] = probe.watch(Batch(fn, source(N), **capacity(probe)))
        await batch.run()

    async def after(probe):
        report = await probe.kept["batch"].run()
        assert report.complete
        assert [o.item for o in report.outcomes] == list(range(N))
        if capacity is not timed:
            probe.kept["fn"].assert_each_once(N)
            assert [o.value for o in report.outcomes if o.index % 4 != 3] == [0, -1, -2, -4, -5]

    assert cancel_at_every_checkpoint(scenario, after=after, seed=seed) > 10


@capacities
@pytest.mark.parametrize("source", [SizedItems, AsyncItems])
@pytest.mark.parametrize(("ordered", "pause"), [(False, 0), (True, 2)])
def test_a_stream_cancelled_at_any_checkpoint_is_completed_by_the_next(
    capacity, source, ordered, pause
):
    async def stream(probe, got):
        batch = probe.kept["batch"]
        async with batch.stream(ordered=ordered) as outcomes:
            async for outcome in outcomes:
                probe.delivered(batch, outcome)
                got.append(outcome.index)
                await trio.sleep(pause)

    async def scenario(probe):
        fn = probe.kept["fn"] = Once()
        probe.kept["got"] = []
        probe.kept["batch"] = probe.watch(Batch(fn, source(N), **capacity(probe)))
        await stream(probe, probe.kept["got"])

    async def after(probe):
        first = probe.kept["got"]
        second = []
        await stream(probe, second)
        assert sorted(first + second) == list(range(N))
        if ordered:
            assert first + second == list(range(N))
        if capacity is not timed:
            probe.kept["fn"].assert_each_once(N)
        assert probe.kept["batch"].report().complete

    assert cancel_at_every_checkpoint(scenario, after=after) > 20


@pytest.mark.parametrize("ordered", [False, True])
def test_a_failure_that_cancels_a_stream_loses_nothing_wherever_it_is_cancelled(ordered):
    async def scenario(probe):
        batch = probe.watch(Batch(Once(), range(N), limit=3, on_error="cancel"))
        try:
            async with batch.stream(ordered=ordered) as outcomes:
                async for outcome in outcomes:
                    probe.delivered(batch, outcome)
        except* ValueError:
            pass

    assert cancel_at_every_checkpoint(scenario) > 10


def test_a_nested_batch_is_conserved_inside_out():
    async def scenario(probe):
        async def outer(n):
            inner = probe.watch(Batch(trio.sleep, range(n), limit=2))
            await inner.run()

        await probe.watch(Batch(outer, [2, 3], limit=2)).run()

    assert cancel_at_every_checkpoint(scenario) > 15


def test_a_limit_changed_at_any_moment_of_a_cancelled_run_leaks_nothing():
    async def change(batch):
        for total in (1, 0, 3, 2):
            await trio.sleep(0.7)
            batch.limiter.total_tokens = total

    async def scenario(probe):
        batch = probe.watch(Batch(Once(), range(N), limit=2))
        probe.watch(batch.limiter)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(change, batch)
            nursery.start_soon(batch.run)

    assert cancel_at_every_checkpoint(scenario) > 20


@capacities
def test_a_deadline_at_any_instant_conserves_items(capacity):
    async def scenario(probe):
        batch = probe.kept["batch"] = probe.watch(Batch(Once(), range(N), **capacity(probe)))
        await batch.run()

    async def after(probe):
        assert (await probe.kept["batch"].run()).complete

    assert expire_at_every_instant(scenario, after=after) >= 5


# --- anything at any time ------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    kind: str
    seconds: float

    async def run(self):
        try:
            if self.kind == "hang":
                await trio.sleep_forever()
            await trio.sleep(self.seconds)
            if self.kind == "fail":
                raise ValueError(self.seconds)
        finally:
            if self.kind == "clean up":
                with trio.move_on_after(1, shield=True):
                    await trio.sleep(self.seconds / 2)
        return self.seconds


seconds = st.sampled_from([0, 0.25, 0.5, 1, 1.5, 3])
kinds = st.sampled_from(["ok", "ok", "ok", "fail", "hang", "clean up"])
batches = st.fixed_dictionaries(
    {
        "items": st.lists(st.builds(Item, kinds, seconds), max_size=25),
        "limit": st.integers(1, 6),
        "tokens": st.none() | st.integers(1, 6),
        "item_timeout": st.sampled_from([2.0, 1.0]),
        "lazy": st.booleans(),
        "cuts": st.lists(seconds, max_size=3),
        "resizes": st.lists(st.tuples(seconds, st.integers(0, 6)), max_size=4),
    }
)


@given(batches, st.sampled_from(["run", "stream", "ordered"]), seconds)
def test_any_items_any_limits_any_cuts_any_resizes(spec, how, pause):
    async def main():
        items = spec["items"]
        gauge, finished, got = InFlightGauge(), [], []
        limiter = None if spec["tokens"] is None else trio.CapacityLimiter(spec["tokens"])

        async def fn(item):
            with gauge:
                value = await item.run()
            finished.append(item)
            return value

        batch = Batch(
            fn,
            iter(items) if spec["lazy"] else items,
            limit=spec["limit"],
            limiter=limiter,
            item_timeout=spec["item_timeout"],
        )

        async def resize():
            for wait, total in spec["resizes"]:
                await trio.sleep(wait)
                batch.limiter.total_tokens = total
            await trio.sleep(100)  # paused for long, and then not
            batch.limiter.total_tokens = max(1, batch.limiter.total_tokens)

        async def once():
            if how == "run":
                await batch.run()
                return
            async with batch.stream(ordered=how == "ordered") as outcomes:
                async for outcome in outcomes:
                    got.append(outcome)
                    await trio.sleep(pause)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(resize)
            for cut in (*spec["cuts"], math.inf):
                with trio.move_on_after(cut):
                    await once()
                check(batch, items, got)
            nursery.cancel_scope.cancel()

        report = batch.report()
        assert report.complete
        assert report.counts.total == len(items)
        highest = max(batch_limit(spec), *(total for _, total in spec["resizes"]), 1)
        assert gauge.now == 0
        assert gauge.peak <= (highest if limiter is None else min(spec["limit"], highest))
        assert len(finished) == report.counts.succeeded
        if how == "ordered":
            assert [o.index for o in got] == sorted(o.index for o in got)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def batch_limit(spec):
    return spec["limit"] if spec["tokens"] is None else spec["tokens"]


def check(batch, items, got, plain=lambda outcome: outcome):
    """Check the outcomes of a batch; `plain` returns one as if it had not been stored."""
    report = batch.report()
    outcomes = {o.index: o for o in (*report.outcomes, *got)}
    assert len(got) == len({o.index for o in got})
    assert not {o.index for o in got} & {o.index for o in report.outcomes}
    counts = report.counts
    known = len(items) if counts.total is not None else len(outcomes)
    assert sorted(outcomes) == list(range(known))
    assert counts.total in {None, len(items)}
    for status in Status:
        assert getattr(counts, status) == sum(o.status is status for o in outcomes.values())
    for o in map(plain, outcomes.values()):
        assert o.item is items[o.index]
        if o.status is Status.SUCCEEDED:
            assert o.value == o.item.seconds
            assert o.item.kind != "fail"
        elif o.status is Status.FAILED:
            assert o.item.kind == "fail"
            assert o.error.args == (o.item.seconds,)
        elif o.status is Status.TIMED_OUT:
            assert o.item.kind == "hang" or o.item.seconds >= 1


def test_generators_are_conserved_too():
    # A sync generator cannot be cut in the middle of a pull, so it can be resumed.
    async def scenario(probe):
        probe.kept["batch"] = probe.watch(Batch(Once(), GeneratorItems(N), limit=2))
        await probe.kept["batch"].run()

    async def after(probe):
        assert (await probe.kept["batch"].run()).complete

    assert cancel_at_every_checkpoint(scenario, after=after) > 10
