"""The step monitor: which steps it reports, whose they are, and where they end."""

import logging
import math
import time

import pytest
import trio
import trio.lowlevel
import trio.testing

from nursery_patterns import BlockedStep, StepMonitor


class Timer:
    """A hand-driven clock: `timer.now += 1` stands for a second of blocking code."""

    now = 0.0

    def __call__(self):
        return self.now


def make_monitor(**options):
    timer = Timer()
    return timer, StepMonitor(
        timer=timer, on_block=options.pop("on_block", lambda step: None), **options
    )


def line_of(function, marker):
    """The line of this file, inside `function`, that ends with the comment `marker`."""
    code = function.__code__
    with open(code.co_filename, encoding="utf-8") as source:  # noqa: PTH123
        for number, line in enumerate(source, 1):
            if number >= code.co_firstlineno and line.rstrip().endswith(f"# {marker}"):
                return f"{code.co_filename}:{number} {code.co_qualname}"
    raise AssertionError(marker)


async def test_a_step_over_the_threshold_is_reported_with_its_task_its_place_and_its_length():
    timer, monitor = make_monitor(threshold=0.1)

    async def greedy():
        timer.now += 0.25
        await trio.lowlevel.checkpoint()  # here

    with monitor.watching():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(greedy, name="the greedy one")
    assert monitor.latest == (BlockedStep("the greedy one", line_of(greedy, "here"), 0.25),)


async def test_a_step_of_exactly_the_threshold_is_not_too_long():
    timer, monitor = make_monitor(threshold=0.25)
    with monitor.watching():
        await trio.lowlevel.checkpoint()
        timer.now += 0.25
        await trio.lowlevel.checkpoint()
    assert monitor.count == 0


async def test_waiting_is_not_blocking():
    timer, monitor = make_monitor()

    async def wait_long():
        await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(0.001)

    with monitor.watching():
        for _ in range(5):
            await wait_long()
    assert monitor.count == 0
    assert timer.now == 0


async def test_time_in_which_the_loop_waits_belongs_to_no_step():
    timer, monitor = make_monitor()

    class LongWaits(trio.abc.Instrument):
        def before_io_wait(self, timeout):
            timer.now += 10

    waits = LongWaits()
    trio.lowlevel.add_instrument(waits)
    with monitor.watching():
        for _ in range(3):
            await trio.testing.wait_all_tasks_blocked()
    trio.lowlevel.remove_instrument(waits)
    assert timer.now >= 30
    assert monitor.count == 0


async def test_a_step_does_not_inherit_the_time_of_the_one_before_it_nor_of_the_report():
    timer = Timer()
    reports = []

    def slow_report(step):
        reports.append((step.task_name, step.seconds))
        timer.now += 5

    monitor = StepMonitor(timer=timer, on_block=slow_report)

    async def take(seconds):
        timer.now += seconds

    with monitor.watching():
        async with trio.open_nursery() as nursery:
            for seconds in (0, 1, 0, 2, 0):
                nursery.start_soon(take, seconds, name=f"{seconds} s")
    assert sorted(reports) == [("1 s", 1), ("2 s", 2)]


async def test_the_place_is_in_the_innermost_function_that_is_not_trios():
    timer, monitor = make_monitor()

    async def inner():
        timer.now += 1
        await trio.Event().wait()  # waits inside trio

    async def outer():
        await inner()

    with monitor.watching():
        await trio.lowlevel.checkpoint()
        with trio.move_on_after(0.01):
            await outer()
    assert monitor.latest[0].where == line_of(inner, "waits inside trio")


async def test_a_task_that_ends_with_a_long_step_is_named_by_its_function():
    timer, monitor = make_monitor()

    async def ends():  # first line
        timer.now += 1

    with monitor.watching():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ends)
    assert monitor.latest[0].where == line_of(ends, "first line")


async def test_the_latest_are_kept_and_all_are_counted_and_the_worst_is_remembered():
    timer, monitor = make_monitor(keep=2)
    with monitor.watching():
        await trio.lowlevel.checkpoint()
        for seconds in [1, 4, 2, 3]:
            timer.now += seconds
            await trio.lowlevel.checkpoint()
    assert [step.seconds for step in monitor.latest] == [2, 3]
    assert monitor.worst.seconds == 4
    assert monitor.count == 4


async def test_a_step_that_was_running_when_the_monitor_came_is_not_reported():
    timer, monitor = make_monitor()
    for _ in range(2):  # the second time it has seen a step before
        timer.now += 100
        with monitor.watching():
            timer.now += 100
            await trio.lowlevel.checkpoint()
    assert monitor.count == 0


async def test_outside_watching_nothing_is_seen():
    timer, monitor = make_monitor()
    with monitor.watching():
        await trio.lowlevel.checkpoint()
    timer.now += 100
    await trio.lowlevel.checkpoint()
    assert monitor.count == 0


async def test_it_watches_until_the_last_of_several_blocks_is_left():
    timer, monitor = make_monitor()
    with monitor.watching():
        with monitor.watching():
            await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        timer.now += 1
        await trio.lowlevel.checkpoint()
    assert monitor.count == 1
    timer.now += 1
    await trio.lowlevel.checkpoint()
    assert monitor.count == 1


async def test_each_report_is_handed_to_the_callback():
    seen = []
    timer, monitor = make_monitor(on_block=seen.append)
    with monitor.watching():
        await trio.lowlevel.checkpoint()
        timer.now += 1
        await trio.lowlevel.checkpoint()
    assert tuple(seen) == monitor.latest
    assert len(seen) == 1


async def test_a_callback_that_raises_takes_the_monitor_out_and_the_run_goes_on(caplog):
    def fail(step):
        raise RuntimeError("no")

    timer, monitor = make_monitor(on_block=fail)
    with monitor.watching():
        await trio.lowlevel.checkpoint()
        for _ in range(3):
            timer.now += 1
            await trio.lowlevel.checkpoint()
    assert monitor.count == 1
    assert "Instrument has been disabled" in caplog.text


def test_given_to_a_run_it_measures_real_time_and_logs_a_warning(caplog):
    monitor = StepMonitor(threshold=0.01)

    async def main():
        time.sleep(0.02)  # noqa: ASYNC251 - the crime under observation
        await trio.lowlevel.checkpoint()

    with caplog.at_level(logging.WARNING, logger="nursery_patterns.steps"):
        trio.run(main, instruments=[monitor], clock=trio.testing.MockClock())
    mine = [step for step in monitor.latest if step.task_name.endswith("main")]
    assert mine[0].seconds >= 0.02
    assert "held the event loop for 0.0" in caplog.text
    assert mine[0].where in caplog.text


async def test_by_the_time_of_the_thread_only_what_computes_is_long():
    async def sleeps():
        time.sleep(0.06)  # noqa: ASYNC251 - what must not count
        await trio.lowlevel.checkpoint()

    async def computes():
        until = time.thread_time() + 0.06
        while time.thread_time() < until:
            pass
        await trio.lowlevel.checkpoint()

    monitor = StepMonitor(0.05, timer=time.thread_time, on_block=lambda step: None)
    with monitor.watching():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleeps, name="sleeps")
            nursery.start_soon(computes, name="computes")
    assert [step.task_name for step in monitor.latest] == ["computes"]


@pytest.mark.parametrize("threshold", [0, -1, math.nan])
def test_a_threshold_that_is_no_time_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold must be above 0 seconds"):
        StepMonitor(threshold)


def test_at_least_one_report_is_kept():
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        StepMonitor(keep=0)
