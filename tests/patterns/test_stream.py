"""A batch that is streamed: back-pressure, early exits, several consumers, what is left over."""

import gc
import itertools
import weakref

import pytest
import trio
import trio.testing

from nursery_patterns import Batch, Counts, Status, stream_batch
from nursery_patterns.testing import InFlightGauge
from tests.support.items import sleep_and_return
from tests.support.policies import IteratorItems, shared_limiter

both_orders = pytest.mark.parametrize("ordered", [False, True])


async def identity(i):
    await trio.lowlevel.checkpoint()
    return i


# --- back-pressure -------------------------------------------------------------------------------


@both_orders
async def test_workers_go_on_while_the_consumer_is_busy_until_limit_outcomes_wait(ordered):
    items, ended = IteratorItems(100), []

    async def fn(i):
        await trio.lowlevel.checkpoint()
        ended.append(i)

    async with stream_batch(fn, items, limit=5, ordered=ordered) as outcomes:
        for taken in range(10):
            await trio.testing.wait_all_tasks_blocked()  # the consumer is busy for long
            assert len(ended) == taken + 5
            assert items.pulled == taken + 5
            await anext(outcomes)


@both_orders
async def test_a_source_without_end_is_streamed_with_a_bounded_number_of_everything(ordered):
    batch = Batch(identity, itertools.count(), limit=4)
    async with batch.stream(ordered=ordered) as outcomes:
        async for outcome in outcomes:
            books = batch._states
            assert len(books.running) + len(books.waiting) + len(books.undelivered) <= 2 * 4
            assert not books.outcomes
            if outcome.index == 2000:
                break
    assert batch.report().counts.total is None
    assert batch.report().counts.succeeded >= 2001 - 4


async def test_others_may_have_the_shared_limiter_while_the_consumer_takes_its_time(autojump_clock):
    limiter = trio.CapacityLimiter(2)
    async with stream_batch(identity, range(20), limit=5, limiter=limiter) as outcomes:
        await anext(outcomes)
        await trio.testing.wait_all_tasks_blocked()
        assert limiter.borrowed_tokens == 0


async def test_what_a_consumer_took_is_kept_alive_by_nobody_else():
    class Item:
        pass

    async def fn(item):
        raise ValueError("boom")

    gc.collect()
    gc.disable()
    try:
        async with stream_batch(fn, (Item() for _ in range(4)), limit=1) as outcomes:
            await anext(outcomes)
            outcome = await anext(outcomes)
            gone = weakref.ref(outcome.item)
            del outcome
            await anext(outcomes)
            assert gone() is None
    finally:
        gc.enable()


@both_orders
async def test_a_consumer_that_always_finds_an_outcome_ready_still_lets_others_run(ordered):
    turns = 0

    async def other():
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async def fn(i):
        return i

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        async with stream_batch(fn, range(1000), limit=50, ordered=ordered) as outcomes:
            async for _ in outcomes:
                pass
        nursery.cancel_scope.cancel()
    assert turns >= 1000 // 16


# --- order ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
async def test_an_ordered_stream_keeps_its_order_however_workers_and_dispatcher_interleave(
    autojump_clock, seed
):
    # Under a shared limiter the dispatcher waits with an item in hand, and workers pull past it.
    async def fn(i):
        await trio.sleep((i * 7 + seed) % 3)

    options = {"limit": 4, "limiter": trio.CapacityLimiter(3)}
    async with stream_batch(fn, range(60), ordered=True, **options) as outcomes:
        assert [o.index async for o in outcomes] == list(range(60))


async def test_an_item_that_takes_long_holds_up_those_behind_it_in_an_ordered_stream(
    autojump_clock,
):
    async with stream_batch(trio.sleep, [5, 1, 1, 1], limit=2, ordered=True) as outcomes:
        times = [(outcome.index, trio.current_time()) async for outcome in outcomes]
    assert times == [(0, 5), (1, 5), (2, 6), (3, 6)]


# --- consumers -----------------------------------------------------------------------------------


@both_orders
async def test_several_consumers_share_the_outcomes(autojump_clock, ordered):
    took = {name: [] for name in "abc"}

    async def consume(name, outcomes):
        async for outcome in outcomes:
            took[name].append(outcome.index)
            await trio.sleep(1)

    async with (
        stream_batch(sleep_and_return, [1] * 30, limit=10, ordered=ordered) as outcomes,
        trio.open_nursery() as nursery,
    ):
        for name in took:
            nursery.start_soon(consume, name, outcomes)
    assert sorted(itertools.chain(*took.values())) == list(range(30))
    assert [len(indexes) for indexes in took.values()] == [10, 10, 10]


async def test_no_consumer_sleeps_over_an_outcome_that_became_due_with_another(autojump_clock):
    # Item 1 is ready at 1 and due at 5, together with item 0.
    times = []

    async def consume(outcomes):
        await anext(outcomes)
        times.append(trio.current_time())
        await trio.sleep(100)

    async with (
        stream_batch(trio.sleep, [5, 1], ordered=True) as outcomes,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(consume, outcomes)
        nursery.start_soon(consume, outcomes)
    assert times == [5, 5]


@both_orders
async def test_a_consumer_cancelled_while_it_waits_takes_nothing_with_it(autojump_clock, ordered):
    got = []
    async with stream_batch(sleep_and_return, [2] * 5, limit=1, ordered=ordered) as outcomes:
        while len(got) < 5:
            with trio.move_on_after(0.7):
                got.append((await anext(outcomes)).index)
    assert got == [0, 1, 2, 3, 4]


async def test_an_exhausted_stream_stays_exhausted(autojump_clock):
    async with stream_batch(identity, [1]) as outcomes:
        assert [o.value async for o in outcomes] == [1]
        assert [o.value async for o in outcomes] == []
        with pytest.raises(StopAsyncIteration):
            await anext(outcomes)


@both_orders
async def test_a_stream_whose_block_was_left_says_so_instead_of_waiting_for_ever(
    autojump_clock, ordered
):
    message = (
        "the stream's block was left, and its items were cancelled: "
        "iterate inside `async with batch.stream() as outcomes:`"
    )

    async def consume_for_too_long(outcomes):
        with pytest.raises(trio.ClosedResourceError) as caught:
            await anext(outcomes)
        assert str(caught.value) == message
        assert trio.current_time() == 1

    async with (
        trio.open_nursery() as nursery,
        stream_batch(trio.sleep, [9, 9], ordered=ordered) as outcomes,
    ):
        nursery.start_soon(consume_for_too_long, outcomes)
        await trio.sleep(1)
    with pytest.raises(trio.ClosedResourceError) as caught:
        await anext(outcomes)
    assert str(caught.value) == message


# --- leaving early, and what is left over -------------------------------------------------------


@pytest.mark.parametrize("how", ["break", "return", "raise", "cancel"])
async def test_however_the_block_is_left_everything_has_unwound_at_that_instant(
    autojump_clock, how
):
    gauge = InFlightGauge()

    async def fn(i):
        with gauge:
            await trio.sleep(i)

    async def consume():
        async with stream_batch(fn, range(1, 50), limit=10) as outcomes:
            async for _ in outcomes:
                if how == "return":
                    return
                if how == "raise":
                    raise KeyError("the consumer's own")
                if how == "cancel":
                    scope.cancel()
                    await trio.sleep_forever()
                break

    with trio.CancelScope() as scope:
        if how == "raise":
            with pytest.RaisesGroup(KeyError):
                await consume()
        else:
            await consume()
    assert trio.current_time() == 1
    assert gauge.now == 0


async def test_clean_up_of_items_is_waited_for_when_the_block_is_left(autojump_clock):
    cleaned = []

    async def fn(i):
        try:
            await trio.sleep(i)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 5):
                await trio.sleep(3)
                cleaned.append(i)

    async with stream_batch(fn, [1, 50, 60], limit=3) as outcomes:
        assert (await anext(outcomes)).item == 1
    assert sorted(cleaned) == [1, 50, 60]
    assert trio.current_time() == 4 + 3


async def test_outcomes_that_were_not_taken_come_first_in_the_next_stream(autojump_clock):
    batch = Batch(sleep_and_return, [1, 2, 3, 100, 1.5, 1], limit=4)
    async with batch.stream() as outcomes:
        assert (await anext(outcomes)).index == 0
        await trio.sleep(3)
        assert [o.index for o in batch.report().outcomes] == [1, 2, 3, 4, 5]
    assert batch.report().counts == Counts(total=6, succeeded=4, cancelled=1, not_started=1)
    async with batch.stream() as outcomes:
        assert [(o.index, trio.current_time()) async for o in outcomes] == [
            (1, 4),
            (4, 4),
            (2, 4),
            (5, 5),
            (3, 104),
        ]
    assert batch.report().complete


@both_orders
@pytest.mark.parametrize("capacity", [lambda n: {"limit": n}, shared_limiter])
async def test_streams_left_early_again_and_again_let_nothing_pile_up(ordered, capacity):
    batch = Batch(identity, range(200), **{**capacity(4), "limit": 4})
    got = []
    while not batch.report().complete:
        async with batch.stream(ordered=ordered) as outcomes:
            async for outcome in outcomes:
                got.append(outcome.index)
                await trio.testing.wait_all_tasks_blocked()
                assert len(batch._states.undelivered) <= 4
                break
    async with batch.stream(ordered=ordered) as outcomes:
        got += [o.index async for o in outcomes]
    assert sorted(got) == list(range(200))
    assert got == sorted(got) or not ordered


async def test_an_ordered_stream_resumes_in_order(autojump_clock):
    batch = Batch(sleep_and_return, [1, 9, 1, 1, 9, 1, 1, 1], limit=4)
    got = []
    async with batch.stream(ordered=True) as outcomes:
        got.append((await anext(outcomes)).index)
        await trio.sleep(2)
    async with batch.stream(ordered=True) as outcomes:
        got += [o.index async for o in outcomes]
    assert got == list(range(8))


async def test_after_a_resume_workers_go_on_as_far_ahead_as_before():
    batch = Batch(identity, range(100), limit=4)
    async with batch.stream() as outcomes:
        await anext(outcomes)
        await trio.testing.wait_all_tasks_blocked()
    async with batch.stream() as outcomes:
        for _ in range(20):
            await anext(outcomes)
            await trio.testing.wait_all_tasks_blocked()
        assert len(batch._states.undelivered) == 4


# --- retaining, and failures ------------------------------------------------------------


async def test_a_stream_retains_counts_and_not_outcomes(autojump_clock):
    batch = Batch(identity, range(50))
    async with batch.stream() as outcomes:
        async for _ in outcomes:
            pass
    report = batch.report()
    assert report.outcomes == ()
    assert report.counts == Counts(total=50, succeeded=50)
    assert report.complete


async def test_a_stream_that_is_asked_to_retains_outcomes_too(autojump_clock):
    batch = Batch(identity, range(50))
    async with batch.stream(retain=True) as outcomes:
        got = [o async for o in outcomes]
    assert batch.report().outcomes == tuple(sorted(got, key=lambda o: o.index))


async def test_a_stream_can_finish_what_a_run_began_and_a_run_what_a_stream_began(autojump_clock):
    batch = Batch(sleep_and_return, [1, 1, 1, 1], limit=1)
    with trio.move_on_after(1.5):
        await batch.run()
    async with batch.stream() as outcomes:
        assert (await anext(outcomes)).index == 1
    report = await batch.run()
    assert report.counts == Counts(total=4, succeeded=4)
    assert [o.index for o in report.outcomes] == [0, 2, 3]  # the consumer has the other


@both_orders
async def test_the_failure_that_cancels_a_stream_is_in_the_report_or_with_the_consumer(
    autojump_clock, ordered
):
    async def fn(i):
        await trio.sleep(i)
        if i == 2:
            raise ValueError("two")

    batch = Batch(fn, range(4), limit=4, on_error="cancel")
    got = []
    with pytest.RaisesGroup(ValueError):
        async with batch.stream(ordered=ordered) as outcomes:
            async for outcome in outcomes:
                got.append(outcome)  # noqa: PERF401 - what came before the failure counts
    report = batch.report()
    assert report.counts == Counts(total=4, succeeded=2, failed=1, cancelled=1)
    everything = {o.index: o.status for o in (*got, *report.outcomes)}
    assert everything == {
        0: Status.SUCCEEDED,
        1: Status.SUCCEEDED,
        2: Status.FAILED,
        3: Status.CANCELLED,
    }


@pytest.mark.parametrize("ordered", [False, True])
async def test_every_consumer_sees_the_end_though_the_one_that_took_the_last_is_content(
    autojump_clock, ordered
):
    ended = []

    async def take_one(outcomes):
        await anext(outcomes)

    async def take_all(outcomes):
        ended.append([outcome.index async for outcome in outcomes])

    with trio.fail_after(10):
        async with (
            Batch(trio.sleep, [1], limit=2).stream(ordered=ordered) as outcomes,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(take_one, outcomes)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(take_all, outcomes)
    assert ended == [[]]


async def test_an_ordered_stream_that_is_resumed_with_a_lower_limit_goes_on(autojump_clock):
    async def fn(item):
        await trio.sleep(10 if item < 2 else 1)

    batch = Batch(fn, range(6), limit=3)
    got = []

    async def consume():
        async with batch.stream(ordered=True) as outcomes:
            async for outcome in outcomes:
                got.append(outcome.index)  # noqa: PERF401 - it is cut, and must keep these

    with trio.move_on_after(5):
        await consume()
    assert len(batch._states.undelivered) > 0
    batch.limit = 1
    with trio.fail_after(100):
        await consume()
    assert got == list(range(6))


async def test_a_predicate_on_the_progress_that_raises_loses_no_outcome(autojump_clock):
    batch = Batch(trio.sleep, [1, 1], limit=1)
    got = []

    async def watch():
        await batch.progress.wait_value(lambda counts: 1 / (1 - counts.succeeded) > 5)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.RaisesGroup(ZeroDivisionError):
            async with batch.stream() as outcomes:
                async for outcome in outcomes:
                    got.append(outcome.index)  # noqa: PERF401 - it is cut, and must keep these
        nursery.cancel_scope.cancel()
    kept = [o.index for o in batch.report().outcomes if o.succeeded]
    assert sorted(got + kept) == list(range(batch.report().counts.succeeded))
    assert batch.report().counts.succeeded >= 1
