"""A batch that is run: what it reports, how it resumes, how its limits change while it runs."""

import gc
import weakref

import pytest
import trio

from nursery_patterns import Batch, Counts, NestedBatch, Outcome, Status, TokenBucket, run_batch
from nursery_patterns.testing import InFlightGauge
from tests.support.items import Recorder, sleep_and_return, statuses

# --- reports -------------------------------------------------------------------------------------


async def test_a_finished_batch_reports_everything_in_input_order(autojump_clock):
    report = await run_batch(sleep_and_return, [3, 1, 2])
    assert report.outcomes == (
        Outcome(0, 3, Status.SUCCEEDED, 3, elapsed=3.0),
        Outcome(1, 1, Status.SUCCEEDED, 1, elapsed=1.0),
        Outcome(2, 2, Status.SUCCEEDED, 2, elapsed=2.0),
    )
    assert report.counts == Counts(total=3, succeeded=3)
    assert report.complete
    assert report.elapsed == 3
    assert report.values() == [3, 1, 2]
    assert report.errors() == []
    assert report.unfinished() == []
    report.raise_errors()


async def test_a_cancelled_batch_keeps_what_finished_and_names_the_rest(autojump_clock):
    batch = Batch(sleep_and_return, [1, 9, 2, 9, 9], limit=2)
    with trio.move_on_after(3.5):
        await batch.run()
    report = batch.report()
    assert statuses(report) == [
        "succeeded",
        "cancelled",
        "succeeded",
        "cancelled",
        "not_started",
    ]
    assert report.counts == Counts(total=5, succeeded=2, cancelled=2, not_started=1)
    assert not report.complete
    assert report.elapsed == 3.5
    assert report.values() == [1, 2]
    assert report.unfinished() == [9, 9, 9]


async def test_a_report_taken_while_the_batch_runs_adds_up(autojump_clock):
    batch = Batch(sleep_and_return, [1, 9, 2, 9, 9], limit=2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(batch.run)
        await trio.sleep(3.5)
        report = batch.report()
        assert report.counts == Counts(total=5, succeeded=2, not_started=3, in_flight=2)
        assert statuses(report) == ["succeeded", "not_started"] * 2 + ["not_started"]
        assert (report.elapsed, report.complete) == (3.5, False)


async def test_a_report_before_the_first_run_names_all_of_a_sized_source():
    batch = Batch(sleep_and_return, [1, 2])
    assert statuses(batch.report()) == ["not_started", "not_started"]
    assert batch.report().counts == Counts(total=2, not_started=2)
    assert batch.report().elapsed == 0


async def test_repr_says_how_far_it_is(autojump_clock):
    batch = Batch(sleep_and_return, [1, 5, 5], limit=2, name="naps")
    assert repr(batch) == "<Batch naps: 0/3 done, 0 in flight>"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(batch.run)
        await trio.sleep(2)
        assert repr(batch) == "<Batch naps: 1/3 done, 2 in flight>"
        nursery.cancel_scope.cancel()
    assert (
        repr(Batch(sleep_and_return, iter([1])))
        == "<Batch sleep_and_return: 0/? done, 0 in flight>"
    )


async def test_outcomes_counts_and_reports_are_frozen(autojump_clock):
    report = await run_batch(sleep_and_return, [1])
    for value, field in (
        (report, "outcomes"),
        (report, "complete"),
        (report.counts, "total"),
        (report.outcomes[0], "value"),
    ):
        with pytest.raises(AttributeError, match="cannot assign to field"):
            setattr(value, field, None)


async def test_an_outcome_of_the_engine_equals_one_that_a_user_makes(autojump_clock):
    report = await run_batch(sleep_and_return, [2])
    made = Outcome(0, 2, Status.SUCCEEDED, 2, None, 2.0)
    assert report.outcomes[0] == made
    assert type(report.outcomes[0]) is Outcome
    assert hash(report.outcomes[0]) == hash(made)


# --- progress ------------------------------------------------------------------------------------


async def test_progress_can_be_waited_on_without_polling(autojump_clock):
    batch = Batch(sleep_and_return, [1, 2, 3, 4], limit=4)
    times = []

    async def watch():
        for done in (1, 2, 4):
            await batch.progress.wait_value(lambda counts, done=done: counts.done >= done)
            times.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        nursery.start_soon(batch.run)
    assert times == [1, 2, 4]
    assert batch.progress.value == Counts(total=4, succeeded=4)


async def run_it(batch):
    await batch.run()


async def stream_it(batch):
    async with batch.stream(retain=True) as outcomes:
        async for _ in outcomes:
            pass


@pytest.mark.parametrize("run", [run_it, stream_it])
@pytest.mark.parametrize("options", [{}, {"item_timeout": 5}])
@pytest.mark.parametrize("watched", [False, True])
async def test_a_batch_that_nobody_needs_any_more_frees_its_outcomes_at_once(run, options, watched):
    class Value:
        pass

    async def fn(item):
        await trio.lowlevel.checkpoint()
        return Value()

    gc.collect()
    gc.disable()
    try:
        batch = Batch(fn, range(5), limit=2, **options)
        if watched:
            assert batch.progress.value.done == 0
        await run(batch)
        gone = weakref.ref(batch.report().values()[0])
        del batch
        assert gone() is None
    finally:
        gc.enable()


async def test_progress_shows_a_cancel(autojump_clock):
    batch = Batch(sleep_and_return, [1, 9], limit=2)
    progress = batch.progress
    with trio.move_on_after(2):
        await batch.run()
    assert progress.value == Counts(total=2, succeeded=1, cancelled=1)


# --- resuming ------------------------------------------------------------------------------------


async def test_a_second_run_takes_what_was_in_flight_first_and_repeats_nothing(autojump_clock):
    fn = Recorder(lambda i: 10 if i in {1, 2} else 1)
    batch = Batch(fn, range(8), limit=3)
    with trio.move_on_after(3.5):
        await batch.run()
    assert fn.starts() == [0, 1, 2, 3, 4, 5]
    assert statuses(batch.report())[:6] == [
        "succeeded",
        "cancelled",
        "cancelled",
        "succeeded",
        "succeeded",
        "cancelled",
    ]
    fn.started.clear()
    report = await batch.run()
    assert fn.starts() == [1, 2, 5, 6, 7]
    assert report.complete
    assert report.values() == list(range(8))
    assert sorted(fn.ends()) == list(range(8))
    assert report.elapsed == 3.5 + 10


async def test_items_given_back_count_as_cancelled_until_they_run_again(autojump_clock):
    batch = Batch(sleep_and_return, [5, 5], limit=2)
    with trio.move_on_after(1):
        await batch.run()
    batch.limiter.total_tokens = 1
    async with trio.open_nursery() as nursery:
        nursery.start_soon(batch.run)
        await trio.sleep(1)
        assert batch.report().counts == Counts(total=2, cancelled=1, not_started=1, in_flight=1)
    assert batch.report().complete


async def test_running_a_complete_batch_again_does_nothing(autojump_clock):
    fn = Recorder()
    batch = Batch(fn, range(3))
    first = await batch.run()
    assert await batch.run() == first
    assert fn.starts() == [0, 1, 2]


async def test_a_batch_runs_once_at_a_time(autojump_clock):
    batch = Batch(sleep_and_return, [1, 1], name="naps")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(batch.run)
        await trio.sleep(0.5)
        with pytest.raises(RuntimeError) as caught:
            await batch.run()
        with pytest.raises(RuntimeError, match="is running already"):
            async with batch.stream():
                pass
    assert str(caught.value) == (
        "<Batch naps: 0/2 done, 2 in flight> is running already: wait for it, or make another Batch"
    )
    assert batch.report().complete


# --- item timeouts that change -------------------------------------------------------------------


async def test_an_item_timeout_that_is_changed_holds_for_the_items_that_start_from_then_on(
    autojump_clock,
):
    batch = Batch(sleep_and_return, [3, 3, 3, 3], limit=2, item_timeout=5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(batch.run)
        await trio.sleep(1)
        batch.item_timeout = 2  # the two in flight keep their 5 s
        assert batch.item_timeout == 2
    ended = [(outcome.status, outcome.elapsed) for outcome in batch.report().outcomes]
    assert ended == [(Status.SUCCEEDED, 3)] * 2 + [(Status.TIMED_OUT, 2)] * 2
    assert str(batch.report().outcomes[2].error) == "not done within 2 s"


async def test_an_item_timeout_can_be_taken_back_while_an_item_is_under_it(autojump_clock):
    batch = Batch(sleep_and_return, [9, 9], limit=1, item_timeout=2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(batch.run)
        await trio.sleep(1)
        batch.item_timeout = None
    first, second = batch.report().outcomes
    assert str(first.error) == "not done within 2 s"
    assert second.value == 9


@pytest.mark.parametrize("before", [None, 50])
async def test_a_run_that_resumes_has_the_item_timeout_of_now(autojump_clock, before):
    batch = Batch(sleep_and_return, [1, 9, 2], limit=1, item_timeout=before)
    with trio.move_on_after(5):
        await batch.run()
    batch.item_timeout = 3
    report = await batch.run()
    statuses = [outcome.status for outcome in report.outcomes]
    assert statuses == [Status.SUCCEEDED, Status.TIMED_OUT, Status.SUCCEEDED]
    assert report.elapsed == 5 + 3 + 2


def test_an_item_timeout_that_is_none_is_refused_and_the_old_one_stays():
    batch = Batch(sleep_and_return, [], item_timeout=2)
    with pytest.raises(ValueError) as caught:
        batch.item_timeout = 0
    assert str(caught.value) == (
        "item_timeout must be above 0 seconds, got 0: write batch.item_timeout = 30"
    )
    assert batch.item_timeout == 2


# --- limits that change --------------------------------------------------------------------------


async def test_a_raised_limit_takes_effect_at_that_instant(autojump_clock):
    fn = Recorder(10)
    batch = Batch(fn, range(6), limit=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(batch.run)
        await trio.sleep(3)
        batch.limiter.total_tokens = 4
    assert fn.started == [(0, 0), (3, 1), (3, 2), (3, 3), (10, 4), (13, 5)]


async def test_a_lowered_limit_lets_running_items_end_and_starts_fewer(autojump_clock):
    gauge, fn = InFlightGauge(), Recorder(10)

    async def gauged(i):
        with gauge:
            await fn(i)

    batch = Batch(gauged, range(8), limit=4)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(batch.run)
        await trio.sleep(3)
        batch.limiter.total_tokens = 2
        assert gauge.now == 4
    assert [time for time, _ in fn.started] == [0] * 4 + [10] * 2 + [20] * 2


@pytest.mark.parametrize("shared", [False, True])
async def test_a_limit_of_zero_pauses_and_a_raise_resumes(autojump_clock, shared):
    fn = Recorder(2)
    limiter = trio.CapacityLimiter(2) if shared else None
    batch = Batch(fn, range(4), limit=2, limiter=limiter)
    assert batch.limiter is limiter or not shared
    async with trio.open_nursery() as nursery:
        nursery.start_soon(batch.run)
        await trio.sleep(1)
        batch.limiter.total_tokens = 0
        await trio.sleep(10)
        assert batch.report().counts.done == 2
        batch.limiter.total_tokens = 1
    assert fn.started == [(0, 0), (0, 1), (11, 2), (13, 3)]


@pytest.mark.parametrize("shared", [False, True])
async def test_a_paused_batch_whose_items_are_all_done_still_returns(autojump_clock, shared):
    limiter = trio.CapacityLimiter(2) if shared else None
    batch = Batch(Recorder(2), range(2), limit=2, limiter=limiter)
    with trio.fail_after(2.5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(batch.run)
            await trio.sleep(1)
            batch.limiter.total_tokens = 0
    assert trio.current_time() == 2


async def test_a_batch_may_start_paused(autojump_clock):
    fn = Recorder()
    batch = Batch(fn, range(2))
    batch.limiter.total_tokens = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(batch.run)
        await trio.sleep(5)
        batch.limiter.total_tokens = 1
    assert fn.started == [(5, 0), (6, 1)]


async def test_the_limiter_in_force_is_not_to_be_exchanged():
    batch = Batch(trio.sleep, [0])
    with pytest.raises(AttributeError, match="limiter"):
        batch.limiter = trio.CapacityLimiter(1)


# --- shared limiters -----------------------------------------------------------------------------


async def test_two_batches_share_one_limiter_first_come_first_served(autojump_clock):
    limiter, gauge, log = trio.CapacityLimiter(1), InFlightGauge(), []

    def logging_as(name):
        async def fn(i):
            with gauge:
                log.append((name, trio.current_time()))
                await trio.sleep(1)

        return fn

    async with trio.open_nursery() as nursery:
        nursery.start_soon(Batch(logging_as("a"), range(4), limiter=limiter).run)
        await trio.sleep(0.5)
        nursery.start_soon(Batch(logging_as("b"), range(3), limiter=limiter).run)
    assert log == [("a", 0), ("a", 1), ("b", 2), ("a", 3), ("b", 4), ("a", 5), ("b", 6)]
    assert gauge.peak == 1
    assert limiter.borrowed_tokens == 0


async def test_who_uses_the_limiter_directly_waits_no_longer_than_one_item(autojump_clock):
    limiter = trio.CapacityLimiter(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Batch(Recorder(1), range(10), limiter=limiter).run)
        await trio.sleep(2.5)
        async with limiter:
            assert trio.current_time() in {3, 4}  # behind the item that is in line already
        nursery.cancel_scope.cancel()


async def test_the_smaller_of_limit_and_limiter_is_the_bound(autojump_clock):
    for limit, tokens, bound in ((2, 5, 2), (5, 2, 2), (3, 3, 3)):
        gauge = InFlightGauge()

        async def fn(i, gauge=gauge):
            with gauge:
                await trio.sleep(1)

        limiter = trio.CapacityLimiter(tokens)
        await run_batch(fn, range(12), limit=limit, limiter=limiter)
        assert gauge.peak == bound


async def test_a_task_that_outlives_its_item_may_use_the_limiter_that_the_item_held(
    autojump_clock,
):
    limiter = trio.CapacityLimiter(1)
    done = []

    async def background():
        with pytest.raises(NestedBatch):
            await run_batch(trio.sleep, [1], limiter=limiter)
        await trio.sleep(5)
        done.append((await run_batch(trio.sleep, [1], limiter=limiter)).complete)

    async with trio.open_nursery() as outer:

        async def item(_):
            outer.start_soon(background)
            await trio.sleep(1)

        await run_batch(item, [1], limiter=limiter)
    assert done == [True]


# --- buckets -------------------------------------------------------------------------------------


async def test_a_bucket_paces_the_starts(autojump_clock):
    fn = Recorder(0)
    await run_batch(fn, range(6), bucket=TokenBucket(rate=2, capacity=2))
    assert [time for time, _ in fn.started] == [0, 0, 0.5, 1, 1.5, 2]


async def test_no_slot_is_held_while_waiting_for_a_token(autojump_clock):
    limiter = trio.CapacityLimiter(1)
    bucket = TokenBucket(rate=0.1, capacity=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Batch(Recorder(0), range(3), limiter=limiter, bucket=bucket).run)
        for _ in range(19):
            await trio.sleep(1.01)
            assert limiter.borrowed_tokens == 0
            assert limiter.statistics().tasks_waiting == 0


# --- run_batch -----------------------------------------------------------------------------------


async def test_run_batch_returns_the_partial_report_when_time_is_up(autojump_clock):
    report = await run_batch(sleep_and_return, [1, 9, 1, 9], limit=2, timeout=3)
    assert trio.current_time() == 3
    assert statuses(report) == ["succeeded", "cancelled", "succeeded", "cancelled"]
    assert not report.complete


async def test_run_batch_with_a_timeout_of_zero_starts_nothing_that_waits(autojump_clock):
    fn = Recorder()
    report = await run_batch(fn, [1, 2], timeout=0)
    assert statuses(report) == ["not_started", "not_started"]
    assert fn.started == []


async def test_run_batch_is_cancelled_like_any_other_function(autojump_clock):
    with trio.move_on_after(2) as scope:
        await run_batch(trio.sleep, [100], timeout=50)
    assert scope.cancelled_caught
    assert trio.current_time() == 2
