"""Calls on a cluster, with the contract of a worker process: a cancel frees the core.

What distributes is an existing engine; a `ClusterEngine` tells how to submit to it and to cancel.
This module is the trio side of it: one thread that talks to the engine, since its calls block, and
futures that wake their task through trio's token. No other event loop runs in this process.
"""

from __future__ import annotations

import importlib
import logging
import pickle
import queue
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar, TypeVarTuple, Unpack, cast, final

import trio

from nursery_patterns._arguments import (
    check_count,
    check_instance,
    check_limiter,
    check_number,
    check_plain_function,
    name_of,
)
from nursery_patterns._errors import WorkerCrashed
from nursery_patterns._limiter import AnyLimiter, as_limiter
from nursery_patterns._requests import current_request
from nursery_patterns._run_local import run_local

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")

_log = logging.getLogger("nursery_patterns.cluster")

_CALL = "await run_in_cluster(fn, argument, {})"

# Calls in flight. The engine has its own queue for those that no core is free for.
_CALLS = 100

# Bytes of a call's pickled function and arguments, and of its value, which pass through here.
_MOST_BYTES = 64 * 2**20

# Seconds that a cancelled call waits for its core to be free, and the run's end for the engine.
_GRACE = 5.0


_NOT_PICKLABLE = (pickle.PicklingError, AttributeError, RecursionError, TypeError, ValueError)


@final
@dataclass(frozen=True, slots=True, eq=False)
class ClusterJob:
    """One call, on its way to a node.

    Attributes:
        name: Of the function, for messages.
        fn: The function.
        args: Its arguments.
        max_bytes: Most bytes of the function and its arguments, and of its result, pickled.
        request: Id, client and age in seconds of the request that it serves.
    """

    name: str
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    max_bytes: int
    request: tuple[str, str, float] | None = None

    def pickled(
        self, dumps: Callable[[Any], bytes], reference: type | None = None
    ) -> tuple[bytes, int, *tuple[Any, ...]]:
        """Return the arguments of `run_job`, which is to be called with them on a node.

        Args:
            dumps: Pickles functions by value, such as `cloudpickle.dumps`.
            reference: Type of the engine's references, which it replaces by their values when
                they are arguments of a task.

        Raises:
            TypeError: Something cannot be pickled.
            ValueError: It is too large.
        """
        places = [n for n, arg in enumerate(self.args) if _is(arg, reference)]
        sent = [None if n in places else arg for n, arg in enumerate(self.args)]
        try:
            job = dumps((self.name, self.fn, sent, places, self.request))
        except (
            pickle.PicklingError,
            AttributeError,
            RecursionError,
            TypeError,
            ValueError,
        ) as error:
            raise TypeError(
                f"{self.name} and its arguments must be picklable to be sent to a cluster, but: "
                f"{error}. Leave out what holds open files, locks or connections, and open it in "
                "the function"
            ) from error
        if len(job) > self.max_bytes:
            raise ValueError(
                f"{self.name} and its arguments have {len(job):,} bytes and may have "
                f"{self.max_bytes:,}: put what is large into the cluster once, with "
                "ray.put(value), and give the reference as the argument"
            )
        return job, self.max_bytes, *(self.args[n] for n in places)


class ClusterEngine(Protocol):
    """The seam to what distributes. All three are called in one thread of their own, in turn."""

    def submit(
        self,
        job: ClusterJob,
        resources: Mapping[str, float],
        ended: Callable[[bytes | Exception], None],
    ) -> object:
        """Start a job somewhere, and return what `cancel` takes.

        Args:
            job: `run_job(*job.pickled(...))` is to be called on a node.
            resources: How much of what it needs, by name.
            ended: To be called once, from any thread: with what `run_job` returned; with a
                `WorkerCrashed` if it was lost with its worker or node; or with another error.
        """
        ...

    def cancel(self, task: Any) -> None:
        """Stop a job for real, so that its core is free. It still calls `ended`."""
        ...

    def close(self) -> None:
        """Leave the cluster, or end it if it was started for this program."""
        ...


_limiter: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar(
    "nursery_patterns cluster calls"
)
_cluster: trio.lowlevel.RunVar[_Cluster] = trio.lowlevel.RunVar("nursery_patterns cluster")


def current_default_cluster_limiter() -> trio.CapacityLimiter:
    """Return the limiter of `run_in_cluster` in this trio run: 100 calls unless changed."""
    return run_local(_limiter, lambda: trio.CapacityLimiter(_CALLS))


async def connect_cluster(
    address: str = "local",
    *,
    engine: Callable[[str], ClusterEngine] | None = None,
    max_bytes: int = _MOST_BYTES,
) -> None:
    """Connect this trio run to a cluster, for `run_in_cluster`; once, and until the run ends.

    `run_in_cluster` does it by itself, with `"local"`, if nobody did before.

    Args:
        address: `"local"` starts Ray on this machine and ends it with the run; `"auto"` is a Ray
            that runs here; `"ray://host:10001"` or `"host:6379"` is one elsewhere. A program that
            has called `ray.init` itself keeps its own, whatever the address.
        engine: What makes a `ClusterEngine` for an address; Ray by default. It may block.
        max_bytes: Most bytes of a call's function and arguments, and of its result, pickled.

    Raises:
        ImportError: The extra `cluster` is not installed.
        ConnectionError: There is no cluster at that address, or it does not let us in.
        RuntimeError: This run is connected already, or the cluster has another Python or Ray.
    """
    check_instance("address", address, str, call='await connect_cluster("local")')
    check_count("max_bytes", max_bytes, call="await connect_cluster(max_bytes=10**8)")
    try:
        _cluster.get()
    except LookupError:
        await _connect(address, engine, max_bytes)
        return
    raise RuntimeError(
        "this run is connected to a cluster already: call connect_cluster once, before the first "
        "run_in_cluster"
    )


async def run_in_cluster(
    fn: Callable[[Unpack[_Args]], _T],
    *args: *_Args,
    limiter: AnyLimiter | None = None,
    resources: Mapping[str, float] | None = None,
) -> _T:
    """Run `fn(*args)` on a node of a cluster and return its value: for calls that compute.

    By default the cluster is Ray (extra `cluster`), started on this machine when it is first
    needed; see `connect_cluster`. Function and arguments are sent by value, also lambdas and
    functions of the main module; modules that they import have to be on the nodes. A call costs
    about as much as eight fetches, so let one call do many small items. References of the engine
    (`ray.put(value)`) as arguments are replaced by their values on the node, so that what many
    calls share is sent once.

    `current_request` tells the request context there, where the node has this package.

    An exception in `fn` arrives as itself, caused by a `RemoteTraceback` with its traceback there.

    **Cancellation**: force-cancels the task and returns when its core is free, or after 5 seconds.

    Args:
        fn: A plain function.
        *args: Its arguments.
        limiter: Bounds the calls in flight; `current_default_cluster_limiter()` by default.
        resources: What the call needs, by Ray's names: `{"CPU": 2, "GPU": 1, "memory": 10**9}` and
            names of your own; one CPU by default.

    Raises:
        TypeError: `fn` is async or not callable, it or an argument cannot be pickled, or an
            argument has the wrong type.
        ValueError: The function and its arguments together, or the result, have more than 64 MiB,
            or a resource is negative.
        WorkerCrashed: The worker or its node died, or ran out of memory, or `fn` raised
            `SystemExit` or `KeyboardInterrupt`. It fails this call alone.
        ImportError: The extra `cluster` is not installed.
        ConnectionError: There is no cluster at the address.
        RuntimeError: The cluster has another Python or Ray.
    """
    check_plain_function(fn, "run_in_cluster")
    check_limiter(limiter, call=_CALL.format("limiter=trio.CapacityLimiter(3)"))
    wanted = _check_resources(resources)
    cluster = await _cluster_of_this_run()
    async with current_default_cluster_limiter() if limiter is None else as_limiter(limiter):
        job = ClusterJob(name_of(fn), fn, args, cluster.max_bytes, _request())
        return await cluster.run(job, wanted)


class RemoteTraceback(Exception):  # noqa: N818 - it is no failure but the text of one
    """The traceback of an exception that was raised in another process, as text."""

    def __str__(self) -> str:
        return f"\n\n{self.args[0]}"


def _request() -> tuple[str, str, float] | None:
    request = current_request()
    return None if request is None else (request.request_id, request.client_id, request.elapsed)


def _check_resources(resources: Mapping[str, float] | None) -> dict[str, float]:
    if resources is None:
        return {}
    call = _CALL.format('resources={"CPU": 2}')
    check_instance("resources", resources, cast("type", Mapping), call=call)
    return {
        str(name): check_number(f"resource {name!r}", amount, call=call, minimum=0)
        for name, amount in resources.items()
    }


@final
class _Call:
    """One call on its way. `ended` is set in trio's thread."""

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.task: object = None  # belongs to the engine's thread
        self.result: bytes | Exception = RuntimeError("the call has not ended")

    def end(self, result: bytes | Exception) -> None:
        self.result = result
        self.ended.set()


@final
class _Cluster:
    """The engine of one trio run, and the thread that talks to it.

    One thread for the whole run, not one of trio's: Ray ends what it has started with the thread
    that started it.
    """

    def __init__(
        self, address: str, engine: Callable[[str], ClusterEngine], max_bytes: int
    ) -> None:
        self.address = address
        self.engine = engine
        self.max_bytes = max_bytes
        self._engine: ClusterEngine | None = None
        self._token = trio.lowlevel.current_trio_token()
        # Bounded by the limiters of the calls: each has one entry to submit and one to cancel.
        self._orders: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._closed = trio.Event()
        self.connected = trio.Event()
        self.failure: Exception | None = None
        self.thread = threading.Thread(target=self._serve, name="cluster", daemon=True)
        self.keeper: trio.lowlevel.Task | None = None

    def open(self) -> None:
        """Start the thread, which connects first."""
        self.thread.start()
        self.keeper = trio.lowlevel.spawn_system_task(self._keep)

    async def run(self, job: ClusterJob, resources: dict[str, float]) -> Any:
        await trio.lowlevel.checkpoint_if_cancelled()
        call = _Call()
        self._orders.put(partial(self._submit, call, job, resources))
        try:
            await call.ended.wait()
        finally:
            if not call.ended.is_set():
                self._orders.put(partial(self._cancel, call))
                with trio.move_on_after(_GRACE, shield=True):
                    await call.ended.wait()
        if isinstance(call.result, Exception):
            raise call.result
        return _unpack(call.result)

    async def _keep(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self._orders.put(None)
            with trio.move_on_after(2 * _GRACE, shield=True):
                await self._closed.wait()

    # ------------------------------------------------------------------ in the engine's thread

    def _serve(self) -> None:
        try:
            self._engine = self.engine(self.address)
        except Exception as error:  # noqa: BLE001 - it is raised by the call that wanted it
            self._tell(self._set_connected, error)
            self._tell(self._closed.set)
            return
        self._tell(self._set_connected, None)
        while (order := self._orders.get()) is not None:
            order()
        try:
            self._engine.close()
        except Exception as error:  # noqa: BLE001 - the run is over and nobody can act on it
            _log.debug("the cluster was not left in order: %s", error)
        self._tell(self._closed.set)

    def _submit(self, call: _Call, job: ClusterJob, resources: dict[str, float]) -> None:
        assert self._engine is not None
        ended = partial(self._tell, call.end)
        try:
            call.task = self._engine.submit(job, resources, ended)
        except Exception as error:  # noqa: BLE001 - it is raised by the call
            ended(error)

    def _cancel(self, call: _Call) -> None:
        assert self._engine is not None
        if call.task is not None:
            self._engine.cancel(call.task)

    def _tell(self, fn: Callable[..., None], *args: Any) -> None:
        with suppress(trio.RunFinishedError):  # nobody is there to be told
            self._token.run_sync_soon(fn, *args)

    def _set_connected(self, failure: Exception | None) -> None:
        self.failure = failure
        self.connected.set()


async def _connect(
    address: str, engine: Callable[[str], ClusterEngine] | None, max_bytes: int
) -> _Cluster:
    cluster = _Cluster(address, engine or _connect_ray, max_bytes)
    cluster.open()
    _cluster.set(cluster)
    return await _connected(cluster)


async def _cluster_of_this_run() -> _Cluster:
    try:
        cluster = _cluster.get()
    except LookupError:
        return await _connect("local", None, _MOST_BYTES)
    if cluster.failure is not None:  # that was then
        return await _connect(cluster.address, cluster.engine, cluster.max_bytes)
    return await _connected(cluster)


def keepers_of_cluster() -> tuple[trio.lowlevel.Task | None, threading.Thread | None]:
    """Return the task and the thread that keep this run connected; None and None if it is not."""
    try:
        cluster = _cluster.get()
    except LookupError:
        return None, None
    return cluster.keeper, cluster.thread


async def _connected(cluster: _Cluster) -> _Cluster:
    await cluster.connected.wait()
    if cluster.failure is not None:
        raise cluster.failure
    return cluster


def _connect_ray(address: str) -> ClusterEngine:
    # By name, since the adapter stands above this module; and only when it is needed.
    return importlib.import_module("nursery_patterns._ray").connect(address)


def _is(value: object, kind: type | None) -> bool:
    return kind is not None and isinstance(value, kind)


def _unpack(result: bytes) -> Any:
    kind, *parts = pickle.loads(result)  # noqa: S301 - from the cluster, which the program trusts
    if kind == "value":
        return parts[0]
    if kind == "ended":
        raise WorkerCrashed(parts[0])
    error, where = parts
    raise error from RemoteTraceback(where)
