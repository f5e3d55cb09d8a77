"""The test kit itself: it must pass what is right, and say what is wrong with what is wrong."""

import math
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from random import Random

import pytest
import trio
import trio.testing

from nursery_patterns import Admission, Batch, Limits, TokenBucket, run_batch, run_in_process
from nursery_patterns import _scenario_run as run_module
from nursery_patterns.testing import (
    InFlightGauge,
    Probe,
    cancel_at_every_checkpoint,
    expire_at_every_instant,
)

HERE = __file__


def complaint_about(scenario, **options):
    with pytest.raises(AssertionError) as caught:
        cancel_at_every_checkpoint(scenario, **options)
    return str(caught.value)


def line_of(function, offset):
    return function.__code__.co_firstlineno + offset


# --- what is right -------------------------------------------------------------------------------


def test_each_checkpoint_is_tried_once_and_the_number_is_returned():
    seen = []

    async def scenario(probe):
        reached = []
        seen.append(reached)
        for i in range(5):
            await trio.lowlevel.checkpoint()
            reached.append(i)

    assert cancel_at_every_checkpoint(scenario) == 6
    to_the_end = [0, 1, 2, 3, 4]
    assert seen == [to_the_end, *(to_the_end[:n] for n in (0, 0, 1, 2, 3, 4)), to_the_end]


def test_the_checkpoints_of_child_tasks_count_and_those_of_others_do_not():
    async def child():
        await trio.sleep(1)

    async def scenario(probe):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            nursery.start_soon(child)

    assert cancel_at_every_checkpoint(scenario) == 1 + 1 + 2  # before it; the parent; the children


def test_only_runs_one_checkpoint():
    runs = []

    async def scenario(probe):
        runs.append(None)
        await trio.sleep(1)
        await trio.sleep(1)

    assert cancel_at_every_checkpoint(scenario, only=2) == 1
    assert len(runs) == 1


def test_time_is_virtual_and_starts_at_zero():
    async def scenario(probe):
        assert trio.current_time() == 0
        await trio.sleep(10_000)
        assert trio.current_time() == 10_000

    assert cancel_at_every_checkpoint(scenario) == 2


def test_after_runs_uncancelled_after_each_run():
    times = []

    async def scenario(probe):
        probe.kept["batch"] = probe.watch(Batch(trio.sleep, [1, 2, 3], limit=2))
        await probe.kept["batch"].run()

    async def after(probe):
        report = await probe.kept["batch"].run()
        assert report.complete
        times.append(report.elapsed)

    tried = cancel_at_every_checkpoint(scenario, after=after)
    assert tried > 4
    assert len(times) == tried + 2


def test_a_shielded_clean_up_with_a_deadline_is_fine():
    async def scenario(probe):
        try:
            await trio.sleep(1)
        finally:
            with trio.move_on_after(5, shield=True):
                await trio.sleep_forever()

    assert cancel_at_every_checkpoint(scenario) == 3


def test_a_cancel_that_comes_too_late_is_not_called_swallowed():
    async def scenario(probe):
        with trio.CancelScope(shield=True):
            await trio.sleep(1)

    assert cancel_at_every_checkpoint(scenario) == 2


def test_threads_are_waited_for():
    async def scenario(probe):
        limiter = probe.watch(trio.CapacityLimiter(1))
        assert await trio.to_thread.run_sync(sum, [1, 2], limiter=limiter) == 3

    assert cancel_at_every_checkpoint(scenario) >= 2


def test_whatever_the_library_has_can_be_watched():
    async def scenario(probe):
        limits = probe.watch(Limits(default=1))
        bucket = probe.watch(TokenBucket(rate=1, capacity=1))
        admission = probe.watch(Admission(trio.CapacityLimiter(1), max_waiting=1))

        async def fn(i):
            await bucket.acquire()
            async with limits["a"], admission:
                await trio.sleep(1)

        await run_batch(fn, range(2))

    assert cancel_at_every_checkpoint(scenario) > 10


def test_a_streamed_batch_is_checked_with_what_was_delivered():
    async def scenario(probe):
        batch = probe.watch(Batch(trio.sleep, [1, 2, 3], limit=2))
        async with batch.stream() as outcomes:
            async for outcome in outcomes:
                probe.delivered(batch, outcome)

    assert cancel_at_every_checkpoint(scenario) > 5


def test_every_instant_and_the_middles_between_them_are_tried():
    ends = []

    async def scenario(probe):
        probe.check(lambda: ends.append(None))
        try:
            await trio.sleep(1)
            await trio.sleep(3)
        finally:
            ends.append(trio.current_time())

    assert expire_at_every_instant(scenario) == 5
    assert [end for end in ends if end is not None] == [4, 0, 0.5, 1, 2.5, 4]


def test_instants_can_be_given():
    async def scenario(probe):
        await trio.sleep(3)

    assert expire_at_every_instant(scenario, [1, 2]) == 2


# --- what is wrong -------------------------------------------------------------------------------


def test_a_slot_leaked_by_a_cancel_is_found():
    async def leaky(probe):
        limiter = probe.watch(trio.CapacityLimiter(2))
        await limiter.acquire()
        await trio.sleep(1)
        limiter.release()

    assert complaint_about(leaky) == (
        f"cancelled at checkpoint 1, task tests.patterns.test_testing.{leaky.__qualname__} at "
        f"{HERE}:{line_of(leaky, 2)} in {leaky.__qualname__}: "
        "1 of 2 tokens of a limiter are still held\n"
        "To see just this one: cancel_at_every_checkpoint(scenario, only=1, seed=0)"
    ).replace("tests.patterns.test_testing", leaky.__module__)


def test_the_advice_reproduces_the_failure():
    async def leaky(probe):
        limiter = probe.watch(trio.CapacityLimiter(2))
        await limiter.acquire()
        await trio.sleep(1)
        limiter.release()

    assert complaint_about(leaky, only=1) == complaint_about(leaky)


def broken(batch, mistake):
    """Make the mistake after each call of the item function, before its end is written down."""
    plan = batch._plan
    well = plan.call

    async def call(item):
        value = await well(item)
        await mistake(plan.states, item)
        return value

    plan.call = call
    return batch


async def lose_for_a_moment(states, item):
    index = next(index for index, running in states.running.items() if running == item)
    states.running.pop(index)
    await trio.lowlevel.checkpoint()
    states.running[index] = item


async def forget(states, item):
    await trio.lowlevel.checkpoint()  # finished, and not recorded


def test_an_outcome_lost_between_two_checkpoints_is_found():
    async def scenario(probe):
        await probe.watch(broken(Batch(trio.sleep, [1, 2]), lose_for_a_moment)).run()

    complaint = complaint_about(scenario)
    assert "counts 1 not_started, and has 0 such outcomes" in complaint
    assert "in lose_for_a_moment" in complaint


def test_an_item_that_runs_twice_is_found_by_after():
    async def scenario(probe):
        ran = probe.kept["ran"] = []

        async def fn(i):
            await trio.sleep(1)
            ran.append(i)

        probe.kept["batch"] = probe.watch(broken(Batch(fn, range(2), limit=1), forget))
        await probe.kept["batch"].run()

    async def after(probe):
        await probe.kept["batch"].run()
        assert probe.kept["ran"] == [0, 1], f"ran {probe.kept['ran']}"

    assert "ran [0, 0, 1]" in complaint_about(scenario, after=after)


def test_an_outcome_delivered_twice_or_not_at_all_is_found():
    async def twice(probe):
        batch = probe.watch(Batch(trio.sleep, [1]))
        async with batch.stream() as outcomes:
            async for outcome in outcomes:
                probe.delivered(batch, outcome)
                probe.delivered(batch, outcome)

    async def never(probe):
        async with probe.watch(Batch(trio.sleep, [1])).stream() as outcomes:
            async for _ in outcomes:
                pass

    assert "<Batch sleep: 1/1 done, 0 in flight> delivered these indexes more than once: [0]" in (
        complaint_about(twice)
    )
    assert "counts 1 succeeded, and has 0 such outcomes" in complaint_about(never)


def test_an_outcome_that_contradicts_itself_is_found():
    async def scenario(probe):
        batch = probe.watch(Batch(trio.sleep, [1]))
        async with batch.stream() as outcomes:
            async for outcome in outcomes:
                probe.delivered(batch, replace(outcome, error=ValueError("odd")))

    complaint = complaint_about(scenario)
    assert "error=ValueError('odd')" in complaint
    assert complaint.endswith("contradicts itself")


def test_two_outcomes_of_one_index_are_found():
    async def scenario(probe):
        batch = probe.watch(Batch(trio.sleep, [1, 1]))
        await batch.run()
        batch._states.outcomes[1] = batch._states.outcomes[0]

    assert "does not report one outcome per index, in order: [0, 0]" in complaint_about(scenario)


async def test_tasks_that_still_wait_for_a_limiter_are_found():
    probe = Probe()
    limiter = probe.watch(trio.CapacityLimiter(1))
    async with trio.open_nursery() as nursery, limiter:
        nursery.start_soon(limiter.acquire)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(AssertionError) as caught:
            probe.verify()
        nursery.cancel_scope.cancel()
    assert str(caught.value) == (
        "1 of 1 tokens of a limiter are still held; 1 tasks still wait for a limiter"
    )


def test_a_swallowed_cancel_is_found():
    async def deaf(probe):
        with suppress(trio.Cancelled):
            await trio.sleep(1)

    complaint = complaint_about(deaf)
    assert complaint.startswith(
        "cancelled at checkpoint 0, before its first step: "
        "the cancel was swallowed: it was delivered to task "
        f"{deaf.__module__}.{deaf.__qualname__} at "
    )


def test_a_cancel_that_is_swallowed_for_ever_is_found():
    async def stubborn(probe):
        await trio.sleep(1)
        while True:
            try:
                await trio.sleep(1)
            except trio.Cancelled:
                continue
            return

    complaint = complaint_about(stubborn, max_checkpoints=100)
    assert f"in {stubborn.__qualname__} did not end, though it was cancelled\n" in complaint


def test_a_clean_up_that_waits_for_ever_is_found(monkeypatch):
    monkeypatch.setattr(run_module, "_STUCK_AFTER", 0.05)

    async def scenario(probe):
        try:
            await trio.sleep(1)
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await trio.sleep_forever()

    complaint = complaint_about(scenario)
    assert complaint.startswith(
        "cancelled at checkpoint 0, before its first step: it waits for ever"
    )
    assert f"{HERE}:{line_of(scenario, 5)} in {scenario.__qualname__}" in complaint


def test_a_scenario_that_waits_for_ever_is_found(monkeypatch):
    monkeypatch.setattr(run_module, "_STUCK_AFTER", 0.05)

    async def scenario(probe):
        await Batch(trio.Event.wait, [trio.Event()]).run()

    assert "run to its end: it waits for ever: task Event.wait" in complaint_about(scenario)


def test_a_scenario_without_end_is_found():
    async def scenario(probe):
        while True:
            await trio.lowlevel.checkpoint()

    assert complaint_about(scenario, max_checkpoints=50) == (
        "run to its end: the scenario did not end within 50 checkpoints"
    )


def test_a_task_that_is_left_is_found():
    async def scenario(probe):
        trio.lowlevel.spawn_system_task(trio.sleep_forever)
        await trio.sleep(1)

    assert complaint_about(scenario) == "run to its end: left behind: task trio.sleep_forever"


def test_a_thread_that_is_left_is_found():
    go_on = threading.Event()

    async def scenario(probe):
        await trio.to_thread.run_sync(go_on.wait, 5, abandon_on_cancel=True)

    try:
        with pytest.raises(AssertionError, match="left behind: thread "):
            cancel_at_every_checkpoint(scenario, only=2)
    finally:
        go_on.set()


def test_a_scenario_that_watches_nothing_needs_no_probe():
    async def scenario():
        await trio.sleep(1)

    assert cancel_at_every_checkpoint(scenario) > 0

    async def leaky():
        trio.lowlevel.spawn_system_task(trio.sleep_forever)
        await trio.sleep(1)

    assert complaint_about(leaky) == "run to its end: left behind: task trio.sleep_forever"


def test_a_failing_check_of_ones_own_is_told():
    async def scenario(probe):
        def check():
            raise AssertionError("the file is still open")

        probe.check(check)

    assert complaint_about(scenario) == "run to its end: the file is still open"


def test_a_scenario_that_raises_is_told():
    async def scenario(probe):
        try:
            await trio.sleep(1)
        finally:
            if trio.current_effective_deadline() == -float("inf"):
                raise ValueError("boom")

    assert ": ValueError: boom\nTo see just this one: " in complaint_about(scenario)


def test_bad_deadlines_are_told_with_their_instant():
    async def scenario(probe):
        limiter = probe.watch(trio.CapacityLimiter(1))
        await trio.sleep(1)
        await limiter.acquire()
        await trio.sleep(1)
        limiter.release()

    with pytest.raises(AssertionError) as caught:
        expire_at_every_instant(scenario)
    assert str(caught.value) == (
        "expired at 1.5 s: 1 of 1 tokens of a limiter are still held\n"
        "To see just this one: expire_at_every_instant(scenario, [1.5], seed=0)"
    )


def test_what_nobody_can_check_is_refused():
    async def scenario(probe):
        probe.watch("a string")

    assert complaint_about(scenario) == (
        "run to its end: TypeError: cannot watch 'a string', only one of Batch, CapacityLimiter, "
        "Limits, TokenBucket, Admission: write probe.check(function) with a function that raises "
        "what is wrong"
    )


# --- reproducing ---------------------------------------------------------------------------------


def order_of_tasks(seed):
    order = []

    async def note(i):
        await trio.lowlevel.checkpoint()
        order.append(i)

    async def scenario(probe):
        order.clear()
        async with trio.open_nursery() as nursery:
            for i in range(6):
                nursery.start_soon(note, i)

    cancel_at_every_checkpoint(scenario, seed=seed)
    return tuple(order)


def test_a_seed_decides_the_order_in_which_tasks_run():
    orders = [order_of_tasks(seed) for seed in range(4)]
    assert orders == [order_of_tasks(seed) for seed in range(4)]
    assert len(set(orders)) > 1


def test_the_private_parts_of_trio_that_the_kit_uses_are_there():
    # If this fails, trio has changed: `reproducible_scheduling` then changes nothing, and
    # failures are reported as before but may not be reproducible with their seed.
    module = sys.modules["trio._core._run"]
    assert isinstance(module._r, Random)
    assert module._ALLOW_DETERMINISTIC_SCHEDULING in {True, False}


async def test_the_private_part_that_tells_an_idle_thread_is_there():
    await trio.to_thread.run_sync(int)
    [worker, *_] = trio._core._thread_cache.THREAD_CACHE._idle_workers
    assert worker._thread in threading.enumerate()


async def test_the_private_part_that_tells_a_delivered_cancel_is_there():
    assert hasattr(trio.lowlevel.current_task(), "_next_send")


def test_the_scheduler_is_left_as_it_was():
    module = sys.modules["trio._core._run"]
    before = module._r.getstate(), module._ALLOW_DETERMINISTIC_SCHEDULING
    order_of_tasks(7)
    assert (module._r.getstate(), module._ALLOW_DETERMINISTIC_SCHEDULING) == before


# --- the gauge -----------------------------------------------------------------------------------


async def test_the_gauge_counts_who_is_inside(autojump_clock):
    gauge = InFlightGauge()

    async def fn(i):
        with gauge:
            await trio.sleep(i)
            raise ValueError

    await run_batch(fn, [1, 2, 3, 4], limit=3)
    assert (gauge.now, gauge.peak, gauge.entered) == (0, 3, 4)


def test_warm_worker_processes_are_left_for_the_run_and_not_behind():
    async def scenario(probe):
        assert await run_in_process(math.sqrt, 4) == 2

    assert cancel_at_every_checkpoint(scenario) > 3
