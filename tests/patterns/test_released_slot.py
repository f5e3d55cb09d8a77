"""An item that only waits lets others have its slot, and never works without one."""

import itertools
import math

import pytest
import trio
import trio.testing

from nursery_patterns import Batch, Limits, Status, TokenBucket, released_slot, run_batch
from nursery_patterns.testing import InFlightGauge, cancel_at_every_checkpoint
from tests.support.policies import AsyncItems, IteratorItems, SizedItems


async def away(seconds):
    async with released_slot():
        await trio.sleep(seconds)


def fail():
    raise ZeroDivisionError


async def test_others_run_while_an_item_waits(autojump_clock):
    finished = {}

    async def fn(item):
        if item == "patient":
            await away(5)
        await trio.sleep(1)
        finished[item] = trio.current_time()

    report = await run_batch(fn, ["patient", "a", "b"], limit=1)
    assert finished == {"a": 1, "b": 2, "patient": 6}
    assert report.complete


@pytest.mark.parametrize("source", [SizedItems, IteratorItems, AsyncItems])
@pytest.mark.parametrize("bucket", [None, TokenBucket(rate=1000, capacity=1000)])
async def test_no_more_than_the_limit_ever_work(autojump_clock, source, bucket):
    working = InFlightGauge()

    async def fn(item):
        with working:
            await trio.sleep(item % 3)
        await away(item % 7)
        with working:
            await trio.sleep(item % 2)
        if item % 5:
            await away(item % 4)
        return item

    report = await run_batch(fn, source(60), limit=4, bucket=bucket)
    assert report.values() == list(range(60))
    assert working.peak == 4


async def test_an_item_that_comes_back_stands_in_line_and_is_not_overtaken_for_ever(autojump_clock):
    resumed = None

    async def fn(item):
        nonlocal resumed
        if item == 0:
            await away(0.5)
            resumed = trio.current_time()
        await trio.sleep(1)

    await run_batch(fn, range(100), limit=1)
    # Item 1 has the slot until 1, and item 2 was already in line.
    assert resumed == 2


async def test_the_shared_capacity_is_given_to_another_batch(autojump_clock):
    limits = Limits(default=1)
    limiter = limits["shared"]
    seen = []

    async def patient(_):
        await away(3)
        seen.append(("patient", trio.current_time(), limiter.borrowed_tokens))

    async def other(_):
        await trio.sleep(1)
        seen.append(("other", trio.current_time(), limiter.borrowed_tokens))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(Batch(patient, [1], limiter=limiter).run)
        await trio.testing.wait_all_tasks_blocked()
        assert limiter.borrowed_tokens == 0
        nursery.start_soon(Batch(other, [1, 2], limiter=limiter).run)
    assert seen == [("other", 1, 1), ("other", 2, 1), ("patient", 3, 1)]
    assert limiter.borrowed_tokens == 0


@pytest.mark.parametrize("limiter", [None, Limits(default=2)["shared"]])
async def test_an_ordered_stream_waits_for_an_item_that_is_away(autojump_clock, limiter):
    async def fn(item):
        await away(0 if item else 3)
        return item

    with trio.fail_after(10):
        async with Batch(fn, range(20), limit=2, limiter=limiter).stream(ordered=True) as outcomes:
            assert [outcome.value async for outcome in outcomes] == list(range(20))
    assert trio.current_time() == 3


async def test_an_ordered_stream_gives_the_shared_place_back(autojump_clock):
    limiter = trio.CapacityLimiter(1)
    async with Batch(away, [5], limit=2, limiter=limiter).stream(ordered=True) as outcomes:
        await trio.testing.wait_all_tasks_blocked()
        assert limiter.borrowed_tokens == 0
        assert [outcome.status async for outcome in outcomes] == [Status.SUCCEEDED]


async def test_a_stream_with_a_slow_consumer_gets_all(autojump_clock):
    async def fn(item):
        await away(item % 3)
        return item

    taken = []
    with trio.fail_after(100):
        async with Batch(fn, range(20), limit=2).stream() as outcomes:
            async for outcome in outcomes:
                taken.append(outcome.value)
                await trio.sleep(1)
    assert sorted(taken) == list(range(20))


async def test_a_paused_batch_holds_up_an_item_that_comes_back(autojump_clock):
    batch = Batch(away, [1], limit=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(batch.run)
        await trio.testing.wait_all_tasks_blocked()
        batch.limit = 0
        await trio.sleep(10)
        assert batch.report().counts.in_flight == 1
        batch.limit = 1
    assert batch.report().complete
    assert batch.report().elapsed == 10


async def test_the_time_of_an_item_goes_on_while_it_is_away(autojump_clock):
    limiter = trio.CapacityLimiter(1)
    report = await run_batch(away, [9, 1, math.inf], limiter=limiter, item_timeout=5)
    assert [o.status for o in report.outcomes] == [
        Status.TIMED_OUT,
        Status.SUCCEEDED,
        Status.TIMED_OUT,
    ]
    assert trio.current_time() == 5
    assert limiter.borrowed_tokens == 0


async def test_an_error_while_away_is_met_with_the_slot_in_hand(autojump_clock):
    working = InFlightGauge()

    async def fn(item):
        try:
            async with released_slot():
                await trio.sleep(1)
                fail()
        except ZeroDivisionError:
            with working:
                await trio.sleep(1)

    report = await run_batch(fn, range(5), limit=1)
    assert report.counts.succeeded == 5
    assert working.peak == 1


async def test_an_item_that_its_own_scope_brings_back_early_has_no_slot_and_none_is_lost(
    autojump_clock,
):
    async def fn(item):
        with trio.move_on_after(1):
            await away(5)
        await trio.sleep(1)

    limiter = trio.CapacityLimiter(1)
    report = await run_batch(fn, range(3), limit=2, limiter=limiter)
    assert report.counts.succeeded == 3
    assert trio.current_time() == 2
    assert limiter.borrowed_tokens == 0


async def test_only_the_items_own_task_gives_its_slot_back(autojump_clock):
    started = []

    async def fn(item):
        started.append((item, trio.current_time()))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(away, 1)

    await run_batch(fn, range(2), limit=1)
    assert started == [(0, 0), (1, 1)]


async def test_a_second_block_inside_of_the_first_changes_nothing(autojump_clock):
    async def fn(item):
        async with released_slot():
            await away(1)
            await trio.sleep(1)
        return item

    batch = Batch(fn, range(3), limit=1)
    await batch.run()
    assert batch.report().values() == [0, 1, 2]
    assert trio.current_time() == 2
    assert batch.limiter.borrowed_tokens == 0


async def test_the_slot_of_an_inner_batch_is_the_one_that_is_given_back(autojump_clock):
    outer_at = []

    async def outer(item):
        outer_at.append(trio.current_time())
        await run_batch(away, [2, 2], limit=1)

    await run_batch(outer, range(2), limit=1)
    assert outer_at == [0, 2]


async def test_outside_of_a_batch_it_only_waits(autojump_clock):
    await away(2)
    assert trio.current_time() == 2


async def test_only_so_many_are_away_at_a_time(autojump_clock, monkeypatch):
    monkeypatch.setattr("nursery_patterns._slot._MAX_RELEASED", 2)
    started = []

    async def fn(item):
        started.append((item, trio.current_time()))
        await away(1)

    await run_batch(fn, range(6), limit=1)
    # Item 2 keeps its slot for its second, and the others wait for that.
    assert [item for item, at in started if at == 0] == [0, 1, 2]
    assert [item for item, _ in started] == list(range(6))


async def test_items_that_are_cut_while_away_are_away_until_somebody_took_their_outcome(
    autojump_clock, monkeypatch
):
    monkeypatch.setattr("nursery_patterns._slot._MAX_RELEASED", 10)
    started = itertools.count()

    async def fn(_):
        next(started)
        await away(10)

    batch = Batch(fn, itertools.count(), limit=2, item_timeout=1)
    async with batch.stream() as outcomes:
        await anext(outcomes)
        await trio.sleep(1_000)  # a consumer that is busy
        assert next(started) <= 10 + 2 + 1


async def test_a_failure_that_cancels_reaches_an_item_that_is_away(autojump_clock):
    async def fn(item):
        if item:
            await trio.sleep(1)
            raise ZeroDivisionError
        await away(math.inf)

    batch = Batch(fn, range(2), limit=1, on_error="cancel")
    with pytest.raises(ExceptionGroup):
        await batch.run()
    assert trio.current_time() == 1
    assert [o.status for o in batch.report().outcomes] == [Status.CANCELLED, Status.FAILED]
    assert batch.limiter.borrowed_tokens == 0


def own(probe):
    return {"limit": 2}


def shared(probe):
    return {"limit": 2, "limiter": probe.watch(Limits(default=1))["shared"]}


def timed(probe):
    return {"limit": 2, "item_timeout": 2}


@pytest.mark.parametrize("capacity", [own, shared, timed])
@pytest.mark.parametrize("ordered", [None, False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_cancel_at_any_checkpoint_loses_no_item_and_leaves_no_slot(capacity, ordered, seed):
    async def fn(item):
        await away(item % 3)
        await trio.sleep(item % 2)
        return item

    async def go(probe):
        batch = probe.kept["batch"]
        if ordered is None:
            await batch.run()
            return
        async with batch.stream(ordered=ordered) as outcomes:
            async for outcome in outcomes:
                probe.delivered(batch, outcome)
                probe.kept["got"].append(outcome.index)

    async def scenario(probe):
        probe.kept["got"] = []
        probe.kept["batch"] = probe.watch(Batch(fn, range(6), **capacity(probe)))
        await go(probe)

    async def after(probe):
        await go(probe)
        assert probe.kept["batch"].report().complete
        if ordered is not None:
            assert sorted(probe.kept["got"]) == list(range(6))

    assert cancel_at_every_checkpoint(scenario, after=after, seed=seed) > 15


class Spawned(trio.abc.Instrument):
    """Counts the tasks that were started."""

    def __init__(self):
        self.count = 0

    def task_spawned(self, task):
        self.count += 1


async def test_workers_keep_their_slots_again_once_all_items_have_returned(autojump_clock):
    async def fn(i):
        if i < 3:
            async with released_slot():
                await trio.sleep(1)
        else:
            await trio.sleep(0.1)

    spawned = Spawned()
    trio.lowlevel.add_instrument(spawned)
    report = await Batch(fn, range(200), limit=2).run()
    trio.lowlevel.remove_instrument(spawned)
    assert report.complete
    # Starting a task costs ten times as much as keeping it. While items wait to return, a worker
    # gives its slot up after each of its items: 2 s at two items in each tenth of a second.
    assert spawned.count < 60
