"""The one way down, whatever asks for it: a signal, the end of input, a cancel, a failed sibling.

Stop accepting; give the calls that run the grace to answer; cancel the rest with an answer; close.
The engine that serves stands under a shield for that time, so that a cancel from outside goes the
same way as a signal. The shield ends at a deadline that is set the moment the stop begins.
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
"""Time after the grace for what was cancelled to unwind and for services to close."""

WATCHDOG_SECONDS: Final = 0.6
"""Time after the grace when a process that asked for signal handling ends, unwound or not."""


class Stop:
    """Asked for once, known to all: the first reason counts.

    Args:
        then: Called when it is asked for.
    """

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self._asked = trio.Event()
        self._then = then
        self.reason = ""

    def __call__(self, reason: str) -> None:
        """Ask for the stop. Later calls change nothing."""
        if not self._asked.is_set():
            self.reason = reason
            self._asked.set()
            self._then()

    @property
    def asked(self) -> bool:
        """Whether the stop was asked for: no new calls from then on."""
        return self._asked.is_set()

    async def wait(self) -> None:
        """Wait until the stop is asked for."""
        await self._asked.wait()


async def run_until_stopped(
    engine: Callable[[], Awaitable[None]],
    stop: Stop,
    wind_down: Callable[[], Awaitable[None]],
    *,
    grace_seconds: float,
    log_level: int = logging.INFO,
) -> None:
    """Run `engine` until the stop is asked for, or this task is cancelled, then wind it down.

    Args:
        engine: Serves. Its end is a reason to stop; its exception leaves from here.
        stop: Requests the stop.
        wind_down: Lets calls finish, and then ends the engine's intake so that it returns. It
            keeps to the grace itself. A cancel does not reach it.
        grace_seconds: Time for running calls to answer, in seconds. `CLOSE_SECONDS` later
            whatever is left of the engine is cancelled.
        log_level: Of the two records, when the stop begins and when it is over.
    """
    # Set in `finally` below, before anything is waited for: no one can outwait it.
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
    """Let SIGTERM and SIGINT (Ctrl-C) ask for a stop within the block; the second one kills.

    The first signal puts the default actions back, so a second one ends the process at once
    without any code of ours. A stop, for whatever reason, has to end the block within the grace
    and `WATCHDOG_SECONDS`, or a watchdog ends the process. SIGHUP, which would kill, changes
    nothing, unless somebody listens for it. Only for the owner of the process.

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

    # Not trio.open_signal_receiver: a tool that holds the event loop would keep the signal from
    # being seen, and the watchdog from being armed.
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
            # None: a handler that was not set from Python, and cannot be put back from it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Stand in for SIG_IGN, which children would inherit."""


class Watchdog:
    """Ends the process with status 0 when a stop that was asked for takes too long.

    The last resort against what no cancel reaches: a thread that never returns, a task that holds
    the event loop. Work is not lost by it: whatever had to be kept was kept before.

    Args:
        seconds: Time from `arm` to the end.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._armed = threading.Event()
        self._called_off = threading.Event()
        # Started now: a signal handler must not start a thread, as it may have interrupted just
        # that and hold its lock.
        threading.Thread(target=self._watch, name="shutdown watchdog", daemon=True).start()

    def arm(self) -> None:
        """Start the time. Safe in a signal handler."""
        self._armed.set()

    def call_off(self) -> None:
        """Nothing happens any more."""
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
    """Wait until running calls have answered, more and more firmly.

    Args:
        answered: Returns when none is left.
        drain: Tells batch calls to answer with what they have; called after half the grace, so
            that what needs little time is whole.
        cancel: Cancels the rest so that each answers with an error; called after the grace.
        grace_seconds: The grace, in seconds.
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
    """Kill the worker processes, and let the process that multiprocessing keeps see our end.

    A process that is stopped (SIGSTOP) does not notice that its parent is gone.
    """
    multiprocessing = sys.modules.get("multiprocessing")
    for worker in multiprocessing.active_children() if multiprocessing else ():
        worker.kill()
    trackers = sys.modules.get("multiprocessing.resource_tracker")
    # Not public, and absent on Windows. It ends by itself when it sees that its parent is gone.
    tracker: int | None = getattr(getattr(trackers, "_resource_tracker", None), "_pid", None)
    if tracker is not None:
        with suppress(ProcessLookupError):
            os.kill(tracker, signal.SIGCONT)


def end_process() -> NoReturn:
    """End the process with status 0 now: no clean-up, no waiting for threads."""
    note = b"trio-tools: something did not stop in time; the process ends without it\n"
    end_children()
    # The log may be what is stuck, so this is not logged, and only written if that cannot block.
    with suppress(OSError, ValueError):
        if select.select([], [2], [], 0)[1]:
            os.write(2, note)
    os._exit(0)
