"""Calls on a cluster, with the contract of a worker process: a cancel frees the core.

An existing engine (`ClusterEngine`) distributes the calls. `ClusterLink` is its trio side. This
module has the public functions.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Mapping
from typing import TypeVar, TypeVarTuple, Unpack, cast

import trio

from nursery_patterns._arguments import (
    check_count,
    check_instance,
    check_limiter,
    check_number,
    check_plain_function,
    name_of,
)
from nursery_patterns._cluster_engine import ClusterEngine, ClusterJob
from nursery_patterns._cluster_link import ClusterLink, ClusterStatistics
from nursery_patterns._limiter import AnyLimiter, as_limiter
from nursery_patterns._requests import current_request, trace_headers
from nursery_patterns._run_local import run_local

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")

_CALL = "await run_in_cluster(fn, argument, {})"

# Calls in flight. The engine queues those for which no core is free.
_CALLS = 100

# Bytes of a call's pickled function and arguments, and of its pickled value.
_MOST_BYTES = 64 * 2**20

_limiter: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar(
    "nursery_patterns cluster calls"
)
_link: trio.lowlevel.RunVar[ClusterLink] = trio.lowlevel.RunVar("nursery_patterns cluster")


def current_default_cluster_limiter() -> trio.CapacityLimiter:
    """Return the limiter of `run_in_cluster` in this trio run: 100 calls unless changed."""
    return run_local(_limiter, lambda: trio.CapacityLimiter(_CALLS))


def use_cluster(
    address: str = "local",
    *,
    engine: Callable[[str], ClusterEngine] | None = None,
    max_bytes: int = _MOST_BYTES,
) -> None:
    """Choose the cluster of this trio run. The first `run_in_cluster` connects to it.

    Args:
        address: `"local"`, the default, starts Ray on this machine and ends it with the run.
            `"auto"` connects to a Ray on this machine, `"ray://host:10001"` or `"host:6379"` to
            another one. If the program has called `ray.init` itself, its Ray is used with any
            address.
        engine: What makes a `ClusterEngine` for an address; Ray by default. It may block.
        max_bytes: Most bytes of a call's function and arguments, and of its result, pickled.

    Raises:
        TypeError: An argument has the wrong type.
        RuntimeError: This run uses the cluster at another address already.
    """
    check_instance("address", address, str, call='use_cluster("local")')
    check_count("max_bytes", max_bytes, call="use_cluster(max_bytes=10**8)")
    try:
        link = _link.get()
    except LookupError:
        _link.set(ClusterLink(address, engine or _connect_ray, max_bytes))
        return
    if link.address != address:
        raise RuntimeError(
            f"this run is connected to a cluster already, at {link.address!r}, and cannot use "
            f"{address!r} too: choose one before the first run_in_cluster"
        )


async def connect_cluster(
    address: str = "local",
    *,
    engine: Callable[[str], ClusterEngine] | None = None,
    max_bytes: int = _MOST_BYTES,
) -> None:
    """Choose the cluster of this trio run, as `use_cluster` does, and connect to it now.

    Returns at once if the run is already connected to it.

    Args:
        address: Of the cluster.
        engine: What makes a `ClusterEngine` for an address; Ray by default. It may block.
        max_bytes: Most bytes of a call's function and arguments, and of its result, pickled.

    Raises:
        ClusterError: The extra `cluster` is not installed (also an `ImportError`); there is no
            cluster at that address, or it refuses us (also a `ConnectionError`); or it has another
            Python or Ray version (also a `RuntimeError`).
        RuntimeError: This run uses the cluster at another address already.
    """
    use_cluster(address, engine=engine, max_bytes=max_bytes)
    await _link_of_this_run().connect()


async def run_in_cluster(
    fn: Callable[[Unpack[_Args]], _T],
    *args: *_Args,
    limiter: AnyLimiter | None = None,
    resources: Mapping[str, float] | None = None,
) -> _T:
    """Run `fn(*args)` on a node of a cluster and return its value; for CPU-bound calls.

    By default the cluster is Ray (extra `cluster`), started on this machine at the first call; see
    `use_cluster`. Function and arguments are sent by value, also lambdas and functions of the main
    module. Modules that they import must be installed on the nodes. A function is pickled with its
    first call, so later changes of its closure do not reach the nodes. A call costs about as much
    as eight fetches, so let one call process many small items. If an argument is a reference of the
    engine (`ray.put(value)`), the node gets its value, so data that many calls share is sent once.

    `current_request` returns the request context there, with the time left until the deadline of
    the caller, where the node has this package. If this program uses `nursery_patterns.telemetry`,
    the current trace of OpenTelemetry is current there too, where the node has OpenTelemetry.

    An exception in `fn` is raised unchanged. Its cause is a `RemoteTraceback` with the traceback on
    the node.

    **Cancellation**: force-cancels the task and returns when its core is free, or after 1 second.

    Args:
        fn: A plain function.
        *args: Its arguments.
        limiter: Bounds the calls in flight; `current_default_cluster_limiter()` by default.
        resources: Required resources, by Ray's names: `{"CPU": 2, "GPU": 1, "memory": 10**9}` and
            custom names; one CPU by default.

    Raises:
        TypeError: `fn` is async or not callable, or an argument has the wrong type.
        ValueError: A resource is negative.
        ClusterError: `fn` did not run, because the cluster cannot be reached or used, something
            cannot be pickled (also a `TypeError`), or something is larger than 64 MiB (also a
            `ValueError`). Also raised if the result is larger.
        WorkerCrashed: The worker or its node died or ran out of memory, or `fn` raised `SystemExit`
            or `KeyboardInterrupt`. Only this call fails.
    """
    check_plain_function(fn, "run_in_cluster")
    check_limiter(limiter, call=_CALL.format("limiter=trio.CapacityLimiter(3)"))
    wanted = _check_resources(resources)
    link = _link_of_this_run()
    async with current_default_cluster_limiter() if limiter is None else as_limiter(limiter):
        function = link.functions.of(fn)
        trace = trace_headers()
        job = ClusterJob(name_of(fn), fn, function, args, link.max_bytes, _request(), trace)
        return await link.run(job, wanted)


async def check_in_cluster(fn: Callable[..., object]) -> None:
    """Check that `run_in_cluster` can run a function, without calling it.

    The function is sent to a node, which loads it. This takes no core, so it does not wait for one.

    Args:
        fn: A plain function.

    Raises:
        TypeError: `fn` is async or not callable.
        ClusterError: The cluster cannot be reached or used, or `fn` cannot be pickled.
        Exception: An exception from loading it on the node, such as a `ModuleNotFoundError`.
    """
    check_plain_function(fn, "run_in_cluster")
    link = _link_of_this_run()
    name = name_of(fn)
    job = ClusterJob(name, callable, link.functions.of(callable), (fn,), link.max_bytes)
    await link.run(job, {"CPU": 0})


def cluster_statistics() -> ClusterStatistics | None:
    """Return the state of the connection to the cluster; None if this run has not used one."""
    try:
        return _link.get().statistics()
    except LookupError:
        return None


def keepers_of_cluster() -> tuple[trio.lowlevel.Task | None, threading.Thread | None]:
    """Return the task and the thread that keep this run connected; None and None if it is not."""
    try:
        link = _link.get()
    except LookupError:
        return None, None
    return link.keeper, link.thread


def _link_of_this_run() -> ClusterLink:
    return run_local(_link, lambda: ClusterLink("local", _connect_ray, _MOST_BYTES))


def _request() -> tuple[str, str, float, float] | None:
    request = current_request()
    if request is None:
        return None
    return request.request_id, request.client_id, request.elapsed, request.remaining


def _check_resources(resources: Mapping[str, float] | None) -> dict[str, float]:
    if resources is None:
        return {}
    call = _CALL.format('resources={"CPU": 2}')
    check_instance("resources", resources, cast("type", Mapping), call=call)
    return {
        str(name): check_number(f"resource {name!r}", amount, call=call, minimum=0)
        for name, amount in resources.items()
    }


def _connect_ray(address: str) -> ClusterEngine:
    # By name, because the adapter is above this module; and only when it is needed.
    return importlib.import_module("nursery_patterns._ray").connect(address)
