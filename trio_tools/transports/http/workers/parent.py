"""The parent of several worker processes that serve one address.

It binds the address, passes the listening sockets to the workers, and has one task for each. A
worker that ends is restarted after a pause, which doubles while it ends quickly. The parent
serves nothing itself, and imports little. If it is killed, its workers detect the end of their
link to it and stop.
"""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import trio

from trio_tools.settings import Settings
from trio_tools.transports.http.listening.handed import Handed
from trio_tools.transports.http.listening.listeners import (
    Loads,
    address_of,
    listen,
    listen_for_metrics,
)
from trio_tools.transports.http.operators.supervisor import Supervisor
from trio_tools.transports.http.workers.liveness import WorkerLinks
from trio_tools.transports.http.workers.siblings import WorkerPlace
from trio_tools.transports.shutdown import Stop, run_until_stopped, stop_on_signals

FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 10.0

STEADY_SECONDS: Final = 10.0
"""Seconds of service after which a worker restarts after the shortest pause."""

# Workers have a grace period, and watchdogs that end them 0.6 s after it.
_KILL_SECONDS: Final = 0.7
_WATCHDOG_SECONDS: Final = 0.3

_log = logging.getLogger("trio_tools")

_Report = Callable[[], None]


class WorkerFailedError(Exception):
    """The first worker cannot start. It has reported the reason."""


async def serve_workers(settings: Settings, command: Sequence[str], *, count: int) -> int:
    """Serve an address with `count` processes until a signal requests the stop.

    SIGTERM and SIGINT stop all workers, SIGHUP is passed to them. Only for the owner of the
    process.

    Args:
        settings: The operator's settings.
        command: Starts a worker; its place is added as the last argument.
        count: Number of workers, at least 2.

    Returns:
        The exit status: 0, or that of the first worker if it could not start.

    Raises:
        ValueError: The state is memory, which other workers cannot read.
        OSError: The address cannot be bound.
    """
    _check(settings)
    grace = settings.shutdown_grace_seconds
    supervisor, handed = Supervisor.of_environment(), Handed.of_environment()
    with ExitStack() as context:
        context.callback(handed.close)
        settings = handed.applied(settings)
        listeners = await listen(settings.http, handed.clients, context)
        monitors = await listen_for_metrics(settings.http, handed.metrics, context)
        stop = context.enter_context(stop_on_signals(grace_seconds=grace + _WATCHDOG_SECONDS))
        sockets = Sockets(_numbers(listeners), _numbers(monitors), handed=bool(handed.clients))
        workers = _Workers(command, count, sockets, stop, supervisor)
        context.callback(workers.close)
        url = address_of(listeners[0], settings.http).url
        return_code = 0
        try:
            await run_until_stopped(
                partial(workers.run, url),
                stop,
                partial(workers.wind_down, grace + _KILL_SECONDS),
                grace_seconds=grace + _KILL_SECONDS,
            )
        except* WorkerFailedError:
            return_code = workers.first_status
    return return_code


def _check(settings: Settings) -> None:
    if settings.state.url.get_secret_value() == "memory":
        raise ValueError(
            "http.workers (--workers) is above 1 and state.url is `memory`, which one worker could "
            "not read of another: set state.url to sqlite or postgresql://…, or use one worker"
        )
    if not hasattr(socket, "send_fds"):
        raise ValueError(
            "http.workers (--workers) above 1 needs a system that hands sockets from process to "
            "process, which this one does not: use one worker"
        )


class Sockets(NamedTuple):
    """Descriptors of the listening sockets of workers. See `WorkerPlace`."""

    clients: tuple[int, ...]
    metrics: tuple[int, ...]
    handed: bool


def _numbers(listeners: Sequence[trio.SocketListener]) -> tuple[int, ...]:
    return tuple(each.socket.fileno() for each in listeners)


class _Workers:
    """The workers: one task for each, which restarts its process.

    Args:
        command: Starts a worker.
        count: Number of workers.
        sockets: Their listening sockets.
        stop: Requests their end.
        supervisor: Receives status messages.

    Attributes:
        first_status: The exit status of the first worker, if it could not start.
    """

    def __init__(
        self,
        command: Sequence[str],
        count: int,
        sockets: Sockets,
        stop: Stop,
        supervisor: Supervisor,
    ) -> None:
        self._command = [sys.executable, *_isolation(), "-m", "trio_tools", *command]
        self._count = count
        self._sockets = sockets
        self._supervisor = supervisor
        self._stop = stop
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(count)]
        self._inboxes = [inbox for inbox, _ in pairs]
        self._outboxes = [outbox for _, outbox in pairs]
        self.first_status = 0
        self._links = WorkerLinks(count)
        # Running workers.
        self._loads = Loads.make(count)
        self._processes: dict[int, trio.Process] = {}
        self._ended = trio.lowlevel.ParkingLot()

    def close(self) -> None:
        """Close the sockets between the workers."""
        for each in (*self._inboxes, *self._outboxes):
            each.close()
        self._loads.close()

    async def run(self, url: str) -> None:
        """Keep all workers running until the stop; the first one must start successfully.

        Raises:
            WorkerFailedError: It did not; in a group.
        """
        async with trio.open_nursery() as nursery:
            await nursery.start(self._keep, 0)
            if self._stop.asked:
                return
            for index in range(1, self._count):
                nursery.start_soon(self._keep, index)
            _log.info("serving MCP at %s with %d workers", url, self._count)
            self._supervisor.ready()
            async with trio.open_nursery() as listening:
                listening.start_soon(self._supervisor.keep_alive, self._links.all_answer)
                listening.start_soon(self._hand_on_hangups)
                await self._stop.wait()
                listening.cancel_scope.cancel(reason="the server stops")

    async def wind_down(self, seconds: float) -> None:
        """Request all workers to stop, and kill the remaining ones after so many seconds."""
        self._supervisor.stopping()
        self._signal(signal.SIGTERM)
        with trio.move_on_after(seconds):
            while self._processes:
                await self._ended.park()
        self._signal(signal.SIGKILL)

    async def _hand_on_hangups(self) -> None:
        with trio.open_signal_receiver(signal.SIGHUP) as hangups:
            async for number in hangups:
                with self._supervisor.reloading():  # until they are notified: each logs its result
                    self._signal(number)

    def _signal(self, number: int) -> None:
        for process in self._processes.values():
            process.send_signal(number)

    async def _keep(
        self, index: int, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run a worker repeatedly until the stop. Reports when it first accepts calls."""
        restarts, pause = 0, FIRST_PAUSE_SECONDS
        ready = trio.Event()

        def report() -> None:
            if not ready.is_set():
                ready.set()
                task_status.started()

        while not self._stop.asked:
            started = trio.current_time()
            status = await self._run_one(index, restarts, report)
            if self._stop.asked:
                break
            if index == 0 and not ready.is_set():
                self.first_status = status
                raise WorkerFailedError
            if trio.current_time() - started >= STEADY_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            _log.warning(
                "worker %d ended with status %d; it is started again in %g s", index, status, pause
            )
            with trio.move_on_after(pause):
                await self._stop.wait()
            restarts, pause = restarts + 1, min(2 * pause, LONGEST_PAUSE_SECONDS)
        report()

    async def _run_one(self, index: int, restarts: int, ready: _Report) -> int:
        """Run a worker once, and return its exit status."""
        ours, theirs = trio.socket.socketpair()
        async with trio.SocketStream(ours) as link, trio.open_nursery() as nursery:
            with theirs:
                process = await self._start(index, restarts, theirs.fileno())
            self._processes[index] = process
            if self._stop.asked:  # during the start
                process.terminate()
            try:
                nursery.start_soon(self._links.hear, index, link, ready)
                status = await process.wait()
            finally:
                if process.returncode is None:
                    process.kill()
                del self._processes[index]
                self._ended.unpark_all()
            nursery.cancel_scope.cancel(reason="the worker has ended")
        return status

    async def _start(self, index: int, restarts: int, link: int) -> trio.Process:
        place = WorkerPlace(
            index=index,
            count=self._count,
            restarts=restarts,
            listeners=self._sockets.clients,
            metrics_listeners=self._sockets.metrics,
            handed=self._sockets.handed,
            loads=self._loads.fileno(),
            link=link,
            inbox=self._inboxes[index].fileno(),
            outboxes=tuple(outbox.fileno() for outbox in self._outboxes),
        )
        return await trio.lowlevel.open_process(
            [*self._command, "--worker", place.as_json()],
            stdin=subprocess.DEVNULL,
            pass_fds=(
                *(*place.listeners, *place.metrics_listeners, place.loads),
                *(link, place.inbox, *place.outboxes),
            ),
            # The terminal's signals reach only the parent, which sends one to each worker.
            process_group=0,
        )


def _isolation() -> list[str]:
    """Return the option that keeps workers from importing from folders the parent does not use."""
    return [] if any(Path(each) in {Path(), Path.cwd()} for each in sys.path) else ["-P"]
