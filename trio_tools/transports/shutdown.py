"""The shutdown sequence, for every reason: signal, end of input, cancel, failed sibling.

Stop accepting; give running calls the grace period to answer; cancel the rest with an answer;
close. The serving engine is shielded during that time, so that a cancel from outside leads to the
same sequence as a signal. The shield ends at a deadline that is set at the beginning of the stop.
"""

from __future__ import annotations

import logging
import math
import os
import select
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final, NoReturn

import trio

from trio_tools.settings.logs import FIELDS

_log = logging.getLogger("trio_tools")

CLOSE_SECONDS: Final = 0.3
"""Seconds after the grace period for cancelled tasks to end and for services to close."""

WATCHDOG_SECONDS: Final = 0.6
"""Seconds after the grace period at which a process with signal handling ends in any case."""


class Stop:
    """A request to stop, made once and visible to all: the first reason counts.

    Args:
        then: Called at the first request.
    """

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self._asked = trio.Event()
        self._then = then
        self.reason = ""

    def __call__(self, reason: str) -> None:
        """Request the stop. Later calls change nothing."""
        if not self._asked.is_set():
            self.reason = reason
            self._asked.set()
            self._then()

    @property
    def asked(self) -> bool:
        """Whether the stop was requested: no new calls are accepted then."""
        return self._asked.is_set()

    async def wait(self) -> None:
        """Wait until the stop is requested."""
        await self._asked.wait()


async def run_until_stopped(
    engine: Callable[[], Awaitable[None]],
    stop: Stop,
    wind_down: Callable[[], Awaitable[None]],
    *,
    grace_seconds: float,
    log_level: int = logging.INFO,
) -> None:
    """Run `engine` until the stop is requested or this task is cancelled, then shut it down.

    Args:
        engine: Serves. Its end is a reason to stop; its exception is raised from here.
        stop: Requests the stop.
        wind_down: Lets calls finish, and then ends the engine's intake so that it returns. It
            observes the grace period itself. A cancel does not reach it.
        grace_seconds: Time for running calls to answer, in seconds. `CLOSE_SECONDS` later the
            rest of the engine is cancelled.
        log_level: Level of the two records at the beginning and the end of the stop.
    """
    # Set in `finally` below, before anything is awaited, so nothing can outlast it.
    shelter = trio.CancelScope(shield=True)

    async def serve() -> None:
        with shelter:
            await engine()
        stop("the transport ended")

    began = math.inf
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            try:
                await stop.wait()
            finally:
                stop("cancelled")
                began = trio.current_time()
                reason = {FIELDS: {"reason": stop.reason}}
                _log.log(log_level, "stopping: %s", stop.reason, extra=reason)
                shelter.deadline = began + grace_seconds + CLOSE_SECONDS
                with trio.CancelScope(shield=True, deadline=shelter.deadline):
                    await wind_down()
    finally:
        took = round(trio.current_time() - began, 3)
        fields = {"reason": stop.reason, "took": took}
        _log.log(log_level, "stopped after %.2f s", took, extra={FIELDS: fields})


@contextmanager
def stop_on_signals(*, grace_seconds: float) -> Generator[Stop]:
    """Let SIGTERM and SIGINT (Ctrl-C) request a stop within the block; the second one kills.

    The first signal restores the default actions, so a second one ends the process at once
    without running our code. After a stop for any reason, the block must end within the grace
    period plus `WATCHDOG_SECONDS`, or a watchdog ends the process. SIGHUP, which would kill, is
    ignored unless a receiver handles it. Only for the owner of the process.

    Raises:
        RuntimeError: Not in the main thread, where Python allows signal handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(
            "handle_signals=True works in the main thread only: leave it out here, and cancel the "
            "server when your own signal handler says so"
        )
    token = trio.lowlevel.current_trio_token()
    watchdog = Watchdog(grace_seconds + WATCHDOG_SECONDS)
    stop = Stop(watchdog.arm)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    # Not trio.open_signal_receiver: a tool that blocks the event loop would keep the signal from
    # being handled, and the watchdog from being armed.
    def on_signal(number: int, frame: FrameType | None) -> None:
        del frame
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL)
        watchdog.arm()
        token.run_sync_soon(stop, signal.Signals(number).name)

    try:
        for number in before:
            signal.signal(number, on_signal)
        if (hangup := getattr(signal, "SIGHUP", None)) is not None:  # not on Windows
            before[hangup] = signal.signal(hangup, _ignore)
        yield stop
    finally:
        watchdog.call_off()
        for number, handler in before.items():
            # None: a handler that was not set from Python cannot be restored from it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Do nothing. Used instead of SIG_IGN, which children would inherit."""


class Watchdog:
    """Ends the process with status 0 when a requested stop takes too long.

    The last resort where no cancel works: a thread that never returns, a task that blocks the
    event loop. No work is lost, since everything to keep was stored before.

    Args:
        seconds: Seconds from `arm` to the end of the process.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._armed = threading.Event()
        self._called_off = threading.Event()
        # Started now: a signal handler must not start a thread, since it may have interrupted
        # code that holds the lock for that.
        threading.Thread(target=self._watch, name="shutdown watchdog", daemon=True).start()

    def arm(self) -> None:
        """Start the timer. Safe in a signal handler."""
        self._armed.set()

    def call_off(self) -> None:
        """Stop the timer."""
        self._called_off.set()
        self._armed.set()

    def _watch(self) -> None:
        self._armed.wait()
        if not self._called_off.wait(self._seconds):
            end_process()


async def answer_running(
    answered: Callable[[], Awaitable[None]],
    drain: Callable[[], None],
    cancel: Callable[[], None],
    *,
    grace_seconds: float,
) -> None:
    """Wait until running calls have answered, in three stages.

    Args:
        answered: Returns when no call is unanswered.
        drain: Makes batch calls answer with their results so far; called after half the grace
            period, so that short calls complete.
        cancel: Cancels the rest so that each call answers with an error; called after the grace
            period.
        grace_seconds: The grace period, in seconds.
    """
    firmer: Sequence[tuple[float, Callable[[], None]]] = (
        (grace_seconds / 2, drain),
        (grace_seconds / 2, cancel),
        (CLOSE_SECONDS / 2, lambda: None),
    )
    for patience, then in firmer:
        with trio.move_on_after(patience):
            await answered()
            return
        then()


def end_children() -> None:
    """Kill the worker processes, and let multiprocessing's own process detect our end.

    A suspended process (SIGSTOP) does not notice that its parent has ended.
    """
    multiprocessing = sys.modules.get("multiprocessing")
    for worker in multiprocessing.active_children() if multiprocessing else ():
        worker.kill()
    trackers = sys.modules.get("multiprocessing.resource_tracker")
    # Not public, and missing on Windows. It ends by itself when it detects the end of its parent.
    tracker: int | None = getattr(getattr(trackers, "_resource_tracker", None), "_pid", None)
    if tracker is not None:
        with suppress(ProcessLookupError):
            os.kill(tracker, signal.SIGCONT)


def end_process() -> NoReturn:
    """End the process with status 0 now, without clean-up and without waiting for threads."""
    note = b"trio-tools: something did not stop in time; the process ends without it\n"
    end_children()
    # The logging may be what is blocked, so this is not logged, and written only if that cannot
    # block.
    with suppress(OSError, ValueError):
        if select.select([], [2], [], 0)[1]:
            os.write(2, note)
    os._exit(0)
