"""Ray as the engine of `run_in_cluster`. This module, and Ray, are imported at the first use."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, final
from weakref import WeakKeyDictionary

from nursery_patterns import _cluster_job
from nursery_patterns._cluster_engine import ClusterJob, PickledFunction
from nursery_patterns._errors import (
    ClusterLost,
    ClusterMismatch,
    ClusterNotInstalled,
    ClusterUnreachable,
    WorkerCrashed,
)
from nursery_patterns._process_guard import ProcessGuard, children_of

# Resources that Ray takes as separate options.
_OPTIONS = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}

# Seconds for which a driver continues when its cluster is silent. Ray's default is 60; then it ends
# the whole process.
_PATIENCE = 10 * 365 * 24 * 3600

# Seconds in which the host of an address has to accept a connection.
_CONNECT_SECONDS = 5.0

# Size of the buffer for a `struct sigaction`, which has 152 bytes or fewer.
_ACTION_BYTES = 512


def connect(address: str) -> RayEngine:
    """Connect to a Ray cluster, or start one; in the thread that is to use it.

    Raises:
        ClusterNotInstalled: Ray is not installed.
        ClusterUnreachable: No cluster is at the address, or none could be started.
        ClusterMismatch: It has another Python or Ray.
    """
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", str(_PATIENCE))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray  # noqa: PLC0415  # pyright: ignore[reportMissingImports] - an extra, half a second
    except ImportError as error:
        raise ClusterNotInstalled(
            "run_in_cluster needs Ray, which is not installed: pip install 'ray[client]'"
        ) from error
    api: Any = ray
    if api.is_initialized():
        return RayEngine(api, owned=False)
    _check_reachable(address)
    try:
        # In a thread that is not the main one, where Ray sets no handler of signals in Python.
        with _keeping_termination_handler():
            api.init(
                address=address,
                include_dashboard=False if address == "local" else None,
                log_to_driver=False,
                logging_level="ERROR",
            )
    except ImportError as error:
        raise ClusterNotInstalled(
            f"the address {address!r} needs Ray's client, which is not installed ({error}): "
            "pip install 'ray[client]'"
        ) from error
    except RuntimeError as error:
        raise ClusterMismatch(
            f"the Ray cluster at {address!r} cannot be used from here: {error}. Python and "
            "Ray have to be of the same versions on both sides, and both or neither use tokens"
        ) from error
    except Exception as error:
        # Ray raises a ConnectionError, or an Exception if a node did not start in time.
        if address == "local":
            raise ClusterUnreachable(
                f"Ray could not be started on this machine: {error}. It needs 1 GB of memory and "
                "some seconds of CPU time; try again, or name a cluster that runs"
            ) from error
        raise _unreachable(address, error) from error
    return RayEngine(api, owned=True)


@contextmanager
def _keeping_termination_handler() -> Generator[None]:
    """Restore the action of SIGTERM after the block.

    Ray's core sets one of its own in C, which Python does not see, and which writes a trace of the
    stack. Python could put back its own only in the main thread; C can in any.
    """
    action = ctypes.create_string_buffer(_ACTION_BYTES)
    sigaction = ctypes.CDLL(None).sigaction
    sigaction(signal.SIGTERM, None, action)
    try:
        yield
    finally:
        sigaction(signal.SIGTERM, action, None)


def _check_reachable(address: str) -> None:
    """Check that a process listens there. Ray itself would wait for a minute."""
    host, colon, port = address.rpartition("://")[2].partition("/")[0].rpartition(":")
    if not (colon and port.isdigit()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, error) from error


def _unreachable(address: str, error: Exception) -> ClusterUnreachable:
    return ClusterUnreachable(
        f"there is no Ray cluster at {address!r} ({error}): start one with `ray start --head`, "
        'correct the address, or use "local"'
    )


@final
class RayEngine:
    """A `ClusterEngine` over Ray."""

    def __init__(self, ray: Any, *, owned: bool) -> None:
        self._ray = ray
        self._owned = owned
        # Ray's agents notice the end of their node and then try for a minute to report it. All the
        # other processes of a node end at once, or within seconds.
        nodes = [pid for pid, name in children_of(os.getpid()) if owned and name == "raylet"]
        self._agents = ProcessGuard(pid for node in nodes for pid, _ in children_of(node))
        self._large: WeakKeyDictionary[PickledFunction, Any] = WeakKeyDictionary()
        # By value: the nodes need not have this package.
        ray.cloudpickle.register_pickle_by_value(_cluster_job)
        self._run_job = ray.remote(max_retries=0)(_cluster_job.run_job)

    def submit(
        self,
        job: ClusterJob,
        resources: Mapping[str, float],
        ended: Callable[[bytes | Exception], None],
    ) -> object:
        """Start a job; see `ClusterEngine`."""
        arguments = job.pickled(self._ray.cloudpickle.dumps, self._ray.ObjectRef, self._stored)
        run = self._run_job.options(**_options(resources)) if resources else self._run_job
        task = run.remote(*arguments)

        def tell(future: Any) -> None:
            ended(self._result_of(future, job))

        task.future().add_done_callback(tell)
        return task

    def cancel(self, task: Any) -> None:
        """Kill the worker of a job; see `ClusterEngine`."""
        self._ray.cancel(task, force=True)

    def close(self) -> None:
        """End the Ray that was started here. A Ray that the program initialised itself stays."""
        if self._owned:
            self._ray.shutdown()
        self._agents.close()

    def _stored(self, function: PickledFunction, pickled: bytes) -> Any:
        """Return the reference of a large function, which is stored with its first call."""
        if function not in self._large:
            self._large[function] = self._ray.put(pickled)
        return self._large[function]

    def _result_of(self, future: Any, job: ClusterJob) -> bytes | Exception:
        error = future.exception()
        if error is None:
            return future.result()
        lost = self._ray.exceptions
        if isinstance(error, lost.RayTaskError):  # of the caller's wrapper, not of the function
            return RuntimeError(f"{job.name} could not be run on the cluster: {error}")
        if isinstance(error, lost.RayError):
            kind = ClusterLost if isinstance(error, lost.LocalRayletDiedError) else WorkerCrashed
            crash = kind(
                f"the cluster lost the worker of {job.name}: {_first_line(error)} Other calls "
                "go on."
            )
            crash.__cause__ = error
            return crash
        return error


def _options(resources: Mapping[str, float]) -> dict[str, Any]:
    options: dict[str, Any] = {
        option: resources[name] for name, option in _OPTIONS.items() if name in resources
    }
    others = {name: amount for name, amount in resources.items() if name not in _OPTIONS}
    return options | ({"resources": others} if others else {})


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
