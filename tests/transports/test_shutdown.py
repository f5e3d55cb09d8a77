import logging
import os
import signal
from contextlib import contextmanager

import pytest
import trio

from trio_tools.transports.shutdown import (
    CLOSE_SECONDS,
    Stop,
    answer_running,
    run_until_stopped,
    stop_on_signals,
)


async def nothing():
    await trio.lowlevel.checkpoint()


async def test_the_first_reason_counts_and_wakes_everyone(autojump_clock):
    told = []
    stop = Stop(lambda: told.append("asked"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop.wait)
        nursery.start_soon(stop.wait)
        assert not stop.asked
        stop("one")
        stop("two")
    assert (stop.asked, stop.reason, told) == (True, "one", ["asked"])


async def test_a_cancel_from_outside_gives_the_engine_the_same_time_as_a_signal(autojump_clock):
    events = []

    async def engine():
        try:
            await trio.sleep_forever()
        finally:
            events.append(("engine ends", trio.current_time()))

    async def wind_down():
        await trio.sleep(1)
        events.append(("wound down", trio.current_time()))

    start = trio.current_time()
    with trio.move_on_at(start + 5):
        await run_until_stopped(engine, Stop(), wind_down, grace_seconds=1)
    assert events == [
        ("wound down", start + 6),
        ("engine ends", start + 6 + CLOSE_SECONDS),
    ]


async def test_a_failing_sibling_leads_through_the_same_path_and_its_error_comes_out(
    autojump_clock,
):
    finished = trio.Event()
    wound_down = []

    async def wind_down():
        wound_down.append(trio.current_time())
        finished.set()
        await trio.lowlevel.checkpoint()

    async def fail():
        await trio.sleep(2)
        raise RuntimeError("the sibling")

    start = trio.current_time()
    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="the sibling")):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            await run_until_stopped(finished.wait, Stop(), wind_down, grace_seconds=1)
    assert wound_down == [start + 2]
    assert trio.current_time() == start + 2


async def test_an_engine_that_fails_is_wound_down_and_its_error_comes_out(autojump_clock):
    wound_down = []

    async def engine():
        await trio.sleep(1)
        raise OSError("broken")

    async def wind_down():
        wound_down.append(True)
        await trio.lowlevel.checkpoint()

    with pytest.RaisesGroup(pytest.RaisesExc(OSError, match="broken")):
        await run_until_stopped(engine, Stop(), wind_down, grace_seconds=1)
    assert wound_down == [True]


async def test_the_reason_and_the_duration_of_a_stop_are_logged(autojump_clock, caplog):
    caplog.set_level(logging.INFO, "trio_tools")
    stop = Stop()

    async def wind_down():
        await trio.sleep(0.25)
        engine.cancel()

    async def serve():
        with engine:
            await trio.sleep_forever()

    engine = trio.CancelScope()
    stop("SIGTERM")
    await run_until_stopped(serve, stop, wind_down, grace_seconds=1)
    assert [(each.getMessage(), each.fields) for each in caplog.records] == [
        ("stopping: SIGTERM", {"reason": "SIGTERM"}),
        ("stopped after 0.25 s", {"reason": "SIGTERM", "took": 0.25}),
    ]


async def test_an_engine_that_ends_stops_the_rest(autojump_clock):
    stop = Stop()
    await run_until_stopped(nothing, stop, nothing, grace_seconds=1)
    assert stop.reason == "the transport ended"


@contextmanager
def lasts(seconds):
    start = trio.current_time()
    yield
    assert trio.current_time() - start == pytest.approx(seconds, abs=1e-9)


@pytest.mark.parametrize(
    ("needs", "told"),
    [
        (0.25, []),
        (0.75, ["drain"]),
        (1 + CLOSE_SECONDS / 4, ["drain", "cancel"]),
    ],
)
async def test_running_calls_are_told_more_and_more_firmly(needs, told, autojump_clock):
    heard = []
    answered_at = trio.current_time() + needs
    with lasts(needs):
        await answer_running(
            lambda: trio.sleep_until(answered_at),
            lambda: heard.append("drain"),
            lambda: heard.append("cancel"),
            grace_seconds=1,
        )
    assert heard == told


async def test_what_never_answers_is_not_waited_for(autojump_clock):
    with lasts(1 + CLOSE_SECONDS / 2):
        await answer_running(trio.sleep_forever, lambda: None, lambda: None, grace_seconds=1)


async def test_signals_are_taken_in_the_main_thread_only():
    async def main():
        with stop_on_signals(grace_seconds=1):
            pass

    with pytest.raises(RuntimeError, match="works in the main thread only"):
        await trio.to_thread.run_sync(trio.run, main)


async def test_handlers_are_put_back_and_the_watchdog_is_called_off():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with stop_on_signals(grace_seconds=0) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        with trio.fail_after(5):
            await stop.wait()
        assert stop.reason == "SIGTERM"
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
