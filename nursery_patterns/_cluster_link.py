"""The link of one trio run to its cluster.

One thread talks to the engine, because the engine's calls block. The end of a call wakes its task
through a trio token. No other event loop runs in this process.
"""

from __future__ import annotations

import logging
import pickle
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, final

import trio

from nursery_patterns._cluster_engine import ClusterEngine, ClusterJob, Functions
from nursery_patterns._errors import ClusterLost, TooLargeForCluster, WorkerCrashed

_log = logging.getLogger("nursery_patterns.cluster")

# Seconds that a cancelled call waits until its core is free.
_GRACE = 1.0

# Seconds that the end of the run waits until the engine has closed. Processes that it started on
# this machine end with this process, or with the thread, in any case.
_CLOSING = 0.5

# With this many calls in flight, an end wakes trio together with those that follow soon: within so
# many seconds for each call in flight. That is a twelfth of what the calls take of Ray, and it
# saves a turn of trio's loop, which costs 0.1 ms, for most of them.
_MANY = 8
_GATHERING = 50e-6
_MOST_GATHERING = 0.005

ClusterState = Literal["not connected", "connecting", "connected", "failed", "lost"]


@dataclass(frozen=True, slots=True)
class ClusterStatistics:
    """The connection of a trio run to its cluster.

    Attributes:
        address: Of the cluster.
        state: `"connected"`; `"not connected"` before the first call; `"failed"` if the last
            attempt to connect failed; `"lost"` if the connection was lost. The next call connects
            again.
        in_flight: Calls that were sent and have not ended.
        ended: Calls that ended so far.
        crashed: Calls of these whose worker or node died.
        error: Why the state is `"failed"` or `"lost"`; else None.
    """

    address: str
    state: ClusterState
    in_flight: int
    ended: int
    crashed: int
    error: str | None


class RemoteTraceback(Exception):  # noqa: N818 - it is no failure but the text of one
    """The traceback of an exception that was raised in another process, as text."""

    def __str__(self) -> str:
        return f"\n\n{self.args[0]}"


@final
class ClusterLink:
    """The cluster of a trio run. It connects with the first call, and after a loss.

    Attributes:
        address: Of the cluster.
        engine: Connects.
        max_bytes: Most bytes of a call, and of its result.
        functions: Their pickled forms.
        keeper: The task that closes the connection when the run ends; None before the first call.
    """

    def __init__(
        self, address: str, engine: Callable[[str], ClusterEngine], max_bytes: int
    ) -> None:
        self.address = address
        self.engine = engine
        self.max_bytes = max_bytes
        self.functions = Functions()
        self.keeper: trio.lowlevel.Task | None = None
        self._connection: Connection | None = None
        self._ended = 0
        self._crashed = 0

    async def connect(self) -> Connection:
        """Return the connection. If no connection works, connect.

        Raises:
            ClusterError: It cannot be made.
        """
        connection = self._connection
        if connection is None or connection.error is not None:
            connection = self._connection = Connection(self.address, self.engine, connection)
            if self.keeper is None:
                self.keeper = trio.lowlevel.spawn_system_task(self._keep)
        await connection.connected.wait()
        if isinstance(connection.error, ClusterLost) or connection.error is None:
            return connection
        raise connection.error

    async def run(self, job: ClusterJob, resources: dict[str, float]) -> Any:
        """Run a call and return its value. A cancel frees its core."""
        connection = await self.connect()
        try:
            result = await connection.run(job, resources)
        except WorkerCrashed:
            self._crashed += 1
            raise
        finally:
            self._ended += 1
        return _unpack(result)

    @property
    def thread(self) -> threading.Thread | None:
        """The thread that talks to the engine."""
        return None if self._connection is None else self._connection.thread

    def statistics(self) -> ClusterStatistics:
        """Return the current state."""
        connection, state = self._connection, "not connected"
        error = None if connection is None else connection.error
        if isinstance(error, ClusterLost):
            state = "lost"
        elif error is not None:
            state = "failed"
        elif connection is not None:
            state = "connected" if connection.connected.is_set() else "connecting"
        return ClusterStatistics(
            self.address,
            state,
            0 if connection is None else len(connection.calls),
            self._ended,
            self._crashed,
            None if error is None else str(error),
        )

    async def _keep(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            if self._connection is not None:
                self._connection.leave()
                with trio.move_on_after(_CLOSING, shield=True):
                    await self._connection.closed.wait()


@final
class _Call:
    """One call on its way. `ended` is set in trio's thread."""

    __slots__ = ("ended", "result", "task")

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.task: object = None  # belongs to the engine's thread
        self.result: bytes | Exception = RuntimeError("the call has not ended")


@final
class Connection:
    """An engine, and the thread that talks to it.

    It has its own thread, which is not one of trio's: Ray ends what it has started when the thread
    that started it ends.

    Args:
        address: Of the cluster.
        engine: Connects; called in the thread.
        previous: The connection that was lost. It is closed first.

    Attributes:
        connected: Set when the engine is connected, or `error` says why not.
        closed: Set when the thread has done its work.
        error: Why it is unusable: it could not be made, or was lost.
        calls: Those that have not ended.
    """

    def __init__(
        self, address: str, engine: Callable[[str], ClusterEngine], previous: Connection | None
    ) -> None:
        self.connected = trio.Event()
        self.closed = trio.Event()
        self.error: Exception | None = None
        self.calls: set[_Call] = set()
        self._token = trio.lowlevel.current_trio_token()
        # Bounded by the limiters of the calls: each call has one entry to submit and one to cancel.
        self._orders: queue.SimpleQueue[Callable[[ClusterEngine], None] | None] = (
            queue.SimpleQueue()
        )
        # Calls that have ended, until trio has run `_end_all`. At most one for each call.
        self._ended: list[tuple[_Call, bytes | Exception]] = []
        self._ended_lock = threading.Lock()
        before = None if previous is None else previous.thread
        self.thread = threading.Thread(
            target=self._serve, args=(partial(engine, address), before), name="cluster", daemon=True
        )
        self.thread.start()

    async def run(self, job: ClusterJob, resources: dict[str, float]) -> bytes:
        """Send a call and wait for its end."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.error is not None:
            raise ClusterLost(f"the cluster was lost before {job.name} was sent: call again")
        call = _Call()
        self.calls.add(call)
        self._orders.put(partial(self._submit, call, job, resources))
        try:
            await call.ended.wait()
        finally:
            if not call.ended.is_set():
                self._orders.put(partial(self._cancel, call))
                with trio.move_on_after(_GRACE, shield=True):
                    await call.ended.wait()
                self.calls.discard(call)
        if isinstance(call.result, Exception):
            raise call.result
        return call.result

    def leave(self) -> None:
        """Let the thread close the engine and end."""
        self._orders.put(None)

    def _end(self, call: _Call, result: bytes | Exception) -> None:
        if isinstance(result, ClusterLost) and self.error is None:
            self.error = result
            self.leave()
        call.result = result
        call.ended.set()
        self.calls.discard(call)

    def _end_all(self) -> None:
        with self._ended_lock:
            ended, self._ended = self._ended, []
        for call, result in ended:
            self._end(call, result)

    def _set_connected(self, error: Exception | None) -> None:
        self.error = error
        self.connected.set()

    def _set_closed(self) -> None:
        self._end_all()
        for call in list(self.calls):
            self._end(call, ClusterLost("the connection to the cluster was closed"))
        self.closed.set()

    # ------------------------------------------------------------------ in the engine's thread

    def _serve(self, connect: Callable[[], ClusterEngine], before: threading.Thread | None) -> None:
        if before is not None:
            before.join()
        try:
            engine = connect()
        except Exception as error:  # noqa: BLE001 - it is raised by the call that wanted it
            self._tell(self._set_connected, error)
            self._tell(self._set_closed)
            return
        self._tell(self._set_connected, None)
        while (order := self._orders.get()) is not None:
            order(engine)
            del order  # it holds the function and its arguments
        try:
            engine.close()
        except Exception as error:  # noqa: BLE001 - the run is over and nobody can act on it
            _log.debug("the cluster was not left in order: %s", error)
        self._tell(self._set_closed)

    def _submit(
        self, call: _Call, job: ClusterJob, resources: dict[str, float], engine: ClusterEngine
    ) -> None:
        ended = partial(self._tell_ended, call)
        try:
            call.task = engine.submit(job, resources, ended)
        except Exception as error:  # noqa: BLE001 - it is raised by the call
            ended(error)

    def _cancel(self, call: _Call, engine: ClusterEngine) -> None:
        if call.task is not None:
            engine.cancel(call.task)

    def _tell_ended(self, call: _Call, result: bytes | Exception) -> None:
        """Wake trio for the end of a call; once for all that end before it has run."""
        with self._ended_lock:
            self._ended.append((call, result))
            is_first = len(self._ended) == 1
        if is_first and len(self.calls) >= _MANY:
            self._orders.put(self._gather)
        elif is_first:
            self._tell(self._end_all)

    def _gather(self, _engine: ClusterEngine) -> None:
        time.sleep(min(len(self.calls) * _GATHERING, _MOST_GATHERING))
        self._tell(self._end_all)

    def _tell(self, fn: Callable[..., None], *args: Any) -> None:
        with suppress(trio.RunFinishedError):  # no task waits for it
            self._token.run_sync_soon(fn, *args)


def _unpack(result: bytes) -> Any:
    kind, *parts = pickle.loads(result)  # noqa: S301 - from the cluster, which the program trusts
    if kind == "value":
        return parts[0]
    if kind == "ended":
        raise WorkerCrashed(parts[0])
    if kind == "too large":
        raise TooLargeForCluster(parts[0])
    error, where = parts
    raise error from RemoteTraceback(where)
