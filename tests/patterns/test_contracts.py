"""What every policy over the engine promises, whatever bounds it, wherever its items are from."""

from contextvars import ContextVar

import pytest
import trio
import trio.testing

from nursery_patterns import Batch, NestedBatch, Status, run_batch, stream_batch
from nursery_patterns.testing import InFlightGauge
from tests.support.policies import (
    IN_INPUT_ORDER,
    STREAMS,
    SizedItems,
    own_limit,
    own_limit_below_a_shared_one,
    shared_limiter,
    ways,
)

every_way = pytest.mark.parametrize("way", ways(), ids=str)
every_policy = pytest.mark.parametrize("way", ways(sources=[SizedItems]), ids=str)


async def double(i):
    await trio.lowlevel.checkpoint()
    return 2 * i


def shuffled_duration(i):
    return (i * 7) % 5


# --- conservation and order --------------------------------------------------------------------


@every_way
async def test_every_item_ends_in_exactly_one_outcome_with_its_own_value(way, autojump_clock):
    async def fn(i):
        await trio.sleep(shuffled_duration(i))
        return 2 * i

    outcomes = await way(fn, way.source(23), limit=4)
    assert sorted(o.index for o in outcomes) == list(range(23))
    assert all(o.item == o.index and o.value == 2 * o.item for o in outcomes)
    assert all(o.status is Status.SUCCEEDED and o.error is None for o in outcomes)
    assert all(o.elapsed == shuffled_duration(o.item) for o in outcomes)


@pytest.mark.parametrize("way", ways(policies=IN_INPUT_ORDER), ids=str)
async def test_outcomes_come_in_input_order_where_that_is_promised(way, autojump_clock):
    async def fn(i):
        await trio.sleep(shuffled_duration(i))

    outcomes = await way(fn, way.source(40), limit=4)
    assert [o.index for o in outcomes] == list(range(40))


@pytest.mark.parametrize("stream", STREAMS[::2])
async def test_outcomes_come_as_they_complete_where_that_is_promised(stream, autojump_clock):
    outcomes = await stream(trio.sleep, [3, 1, 2])
    assert [o.item for o in outcomes] == [1, 2, 3]


@every_way
async def test_no_items_are_no_outcomes(way):
    assert await way(double, way.source(0)) == []


@every_way
async def test_a_failing_item_is_an_outcome_and_its_siblings_go_on(way, autojump_clock):
    boom = ValueError("three")

    async def fn(i):
        await trio.sleep(shuffled_duration(i))
        if i == 3:
            raise boom
        return i

    outcomes = {o.index: o for o in await way(fn, way.source(9), limit=2)}
    assert len(outcomes) == 9
    failed = outcomes.pop(3)
    assert (failed.status, failed.value, failed.error) == (Status.FAILED, None, boom)
    assert all(o.status is Status.SUCCEEDED for o in outcomes.values())


# --- the bound, and lazy input -----------------------------------------------------------------


@every_way
async def test_exactly_limit_items_are_in_flight_and_hardly_more_are_pulled(way):
    gauge, release = InFlightGauge(), trio.Event()
    items = way.source(50)
    # Who shares a limiter stands in its line with an item in hand; nobody else does.
    in_hand = 1 if way.capacity is shared_limiter else 0

    async def fn(_):
        with gauge:
            await release.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(way, fn, items, 7)
        await trio.testing.wait_all_tasks_blocked()
        assert gauge.now == 7
        assert items.pulled == 7 + in_hand
        release.set()
    assert gauge.peak == 7
    assert gauge.entered == items.pulled == 50


@every_way
async def test_items_take_no_longer_than_the_bound_makes_them(way, autojump_clock):
    await way(trio.sleep, [2] * 12, limit=4)
    assert trio.current_time() == 12 / 4 * 2


@every_way
async def test_the_bound_holds_however_long_items_take(way, autojump_clock):
    gauge = InFlightGauge()

    async def fn(i):
        with gauge:
            await trio.sleep(shuffled_duration(i))

    await way(fn, way.source(40), limit=3)
    assert (gauge.peak, gauge.now, gauge.entered) == (3, 0, 40)


@every_policy
async def test_an_item_that_never_waits_does_not_starve_its_siblings(way):
    log = []

    async def fn(i):
        if i == 1:
            await trio.lowlevel.checkpoint()
        log.append(i)

    await way(fn, way.source(1000), limit=2)
    assert log.index(1) < 100


@every_policy
async def test_items_that_never_wait_do_not_block_a_cancel(way):
    async def fn(i):
        if i == 100:
            scope.cancel()

    with trio.CancelScope() as scope:
        await way(fn, way.source(100_000), limit=2)
    assert scope.cancelled_caught


# --- failures of the program ------------------------------------------------------------------


@every_policy
async def test_the_first_failure_leaves_as_a_group_of_depth_one(way, autojump_clock):
    cut = []

    async def fn(i):
        try:
            await trio.sleep(10 - i)
        except trio.Cancelled:
            cut.append(i)
            raise
        if i == 3:
            raise KeyError(i)

    with pytest.RaisesGroup(pytest.RaisesExc(KeyError, match="3")):
        await way(fn, way.source(5), limit=4, on_error="cancel")
    assert trio.current_time() == 7
    assert sorted(cut) == [0, 1, 2]


@every_policy
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
async def test_what_ends_the_program_is_no_outcome(way, kind):
    async def fn(i):
        await trio.lowlevel.checkpoint()
        if i == 3:
            raise kind

    with pytest.RaisesGroup(kind):
        await way(fn, way.source(10), limit=2)


@pytest.mark.parametrize("way", ways(sources=[list]), ids=str)
async def test_a_source_that_raises_leaves_as_a_group(way):
    def sync_items():
        yield 0
        yield 1
        raise OSError("the disk is gone")

    with pytest.RaisesGroup(pytest.RaisesExc(OSError, match="the disk is gone")):
        await way(double, sync_items(), limit=2)


@pytest.mark.parametrize("way", ways(sources=[list]), ids=str)
async def test_an_async_source_that_raises_leaves_as_a_group(way):
    async def async_items():
        yield 0
        await trio.lowlevel.checkpoint()
        raise OSError("the peer is gone")

    with pytest.RaisesGroup(pytest.RaisesExc(OSError, match="the peer is gone")):
        await way(double, async_items(), limit=2)


# --- time ----------------------------------------------------------------------------------------


@every_way
async def test_the_timeout_of_an_item_counts_from_when_it_has_its_slot(way, autojump_clock):
    async def fn(i):
        await trio.sleep(4 if i % 2 else 100)
        return i

    outcomes = await way(fn, way.source(6), limit=1, item_timeout=5)
    assert trio.current_time() == 3 * 5 + 3 * 4
    by_index = sorted(outcomes, key=lambda o: o.index)
    timed_out, succeeded = by_index[::2], by_index[1::2]
    assert all(o.status is Status.TIMED_OUT and o.elapsed == 5 for o in timed_out)
    assert all(str(o.error) == "not done within 5 s" for o in timed_out)
    assert all(type(o.error) is trio.TooSlowError and o.value is None for o in timed_out)
    assert all(o.value == o.index and o.elapsed == 4 for o in succeeded)


@every_policy
async def test_a_timed_out_item_is_no_failure_that_cancels_the_rest(way, autojump_clock):
    outcomes = await way(trio.sleep, [9, 1], item_timeout=5, on_error="cancel")
    assert {o.item: o.status for o in outcomes} == {9: Status.TIMED_OUT, 1: Status.SUCCEEDED}


@every_way
async def test_a_deadline_around_it_is_kept_to_the_instant(way, autojump_clock):
    gauge = InFlightGauge()

    async def fn(_):
        with gauge:
            await trio.sleep_forever()

    with trio.move_on_after(3) as scope:
        await way(fn, way.source(1000), limit=20)
    assert scope.cancelled_caught
    assert trio.current_time() == 3
    assert gauge.now == 0


# --- tasks ---------------------------------------------------------------------------------------

who = ContextVar("who")


@every_policy
async def test_items_inherit_the_context_of_whoever_runs_the_batch(way):
    who.set("the caller")

    async def fn(_):
        await trio.lowlevel.checkpoint()
        return who.get()

    outcomes = await way(fn, way.source(5), limit=2)
    assert [o.value for o in outcomes] == ["the caller"] * 5


@pytest.mark.parametrize("capacity", [own_limit, own_limit_below_a_shared_one])
@pytest.mark.parametrize("policy", [run_batch, *STREAMS])
async def test_no_more_tasks_exist_than_items_in_flight_and_a_dispatcher(policy, capacity):
    most = 0

    async def fn(i):
        nonlocal most
        await trio.lowlevel.checkpoint()
        most = max(most, trio.lowlevel.current_statistics().tasks_living)

    before = trio.lowlevel.current_statistics().tasks_living
    await policy(fn, range(200), **capacity(5))
    assert most - before <= 5 + 1


@pytest.mark.parametrize("policy", [run_batch, *STREAMS])
async def test_a_batch_inside_an_item_that_holds_its_limiter_is_refused(policy):
    limiter = trio.CapacityLimiter(2)

    async def inner(i):
        await trio.lowlevel.checkpoint()

    async def outer(i):
        await policy(inner, [i], limiter=limiter, name="inner")

    # One worker runs all of them: it is so for each of its items.
    for outcome in await policy_outcomes(policy, outer, [1, 2, 3], limit=1, limiter=limiter):
        assert type(outcome.error) is NestedBatch
        assert str(outcome.error) == (
            "<Batch inner: 0/1 done, 0 in flight> was started inside an item that holds the same "
            "limiter, and could wait for that item for ever: give the inner batch a limiter of its "
            "own"
        )


async def run_it(batch):
    return (await batch.run()).outcomes


async def stream_it(batch):
    async with batch.stream() as outcomes:
        return [outcome async for outcome in outcomes]


@pytest.mark.parametrize("run", [run_it, stream_it])
async def test_a_batch_inside_an_item_of_another_without_a_limiter_cannot_have_its_places(run):
    async def outer(i):
        await run_batch(double, [i], limiter=batch.limiter)

    batch = Batch(outer, range(3), limit=1)
    assert [type(outcome.error) for outcome in await run(batch)] == [NestedBatch] * 3


async def policy_outcomes(policy, fn, items, **options):
    result = await policy(fn, items, **options)
    return result if isinstance(result, list) else list(result.outcomes)


async def test_the_limiter_of_an_outer_item_is_remembered_through_a_batch_in_between():
    limiter = trio.CapacityLimiter(5)

    async def innermost(i):
        await trio.lowlevel.checkpoint()

    async def middle(i):
        (await run_batch(innermost, [i], limiter=limiter)).raise_errors()

    async def outer(i):
        (await run_batch(middle, [i])).raise_errors()

    report = await run_batch(outer, [1], limiter=limiter)
    with pytest.RaisesGroup(pytest.RaisesGroup(RuntimeError)):
        report.raise_errors()


async def test_a_batch_inside_an_item_may_have_another_limiter(autojump_clock):
    async def outer(n):
        return (await run_batch(double, range(n), limit=1)).values()

    report = await run_batch(outer, [1, 2, 3], limit=2)
    assert report.values() == [[0], [0, 2], [0, 2, 4]]


@pytest.mark.parametrize("capacity", [own_limit, own_limit_below_a_shared_one, shared_limiter])
async def test_a_loose_trio_run_changes_nothing_about_the_group(capacity):
    # Loose groups are deprecated in trio, but an application may still run with them.
    async def fn(i):
        raise ValueError(i)

    async def main():
        await Batch(fn, [1], on_error="cancel", **capacity(1)).run()

    def run():
        with pytest.warns(trio.TrioDeprecationWarning, match="strict_exception_groups"):
            trio.run(main, strict_exception_groups=False)

    with pytest.RaisesGroup(ValueError):
        await trio.to_thread.run_sync(run)


async def test_leaving_a_stream_early_cancels_at_once_what_is_left(autojump_clock):
    gauge = InFlightGauge()

    async def fn(i):
        with gauge:
            await trio.sleep(i)

    async with stream_batch(fn, range(1, 100), limit=20) as outcomes:
        async for outcome in outcomes:
            assert outcome.item == 1
            break
    assert trio.current_time() == 1
    assert gauge.now == 0
    assert gauge.entered <= 21
