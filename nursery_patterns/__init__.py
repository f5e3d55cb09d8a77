"""Patterns of structured concurrency for trio.

Every parallel operation runs in a nursery, under a `trio.CapacityLimiter`, within a cancel scope.
Finished results live outside that scope, so a cancel does not lose them.

The modules, lowest layer first. A module imports only from lower layers; a test checks this.

    L0  _errors  _arguments          exceptions; argument checks
        _run_local  _await_frames    values of one trio run; where a task waits
        _tracebacks  _pull_turn      tracebacks without frames; the turn to pull an item
        _trio_internals              trio's private parts that the test kit uses
        _limiter  _fair_queue        limiters that delegate; fair queue
        _cpus  _process_guard        how many CPUs this process may use; ends processes with it
    L1  _outcomes  _token_bucket     outcomes of items; rate limit
        _slot  _deadline             a worker's slot; time budget
        _growing_queue  _retry       the queue of a frontier; retry policy
        _requests                    request context
        _threads  _worker            blocking calls; code of a worker process
        _step_monitor                steps that block the event loop
        _single_flight  _hedge       shared calls; a second attempt when one is late
    L2  _source  _key_limits         the remaining items; limits per key
        _frontier                    a source that grows
        _cluster_engine              the interface to a cluster engine
        _worker_pool                 the worker processes of one trio run
    L3  _item_states  _admission     the state of each item; a bounded fair queue
        _frontier_source             the remaining items of a frontier
        _processes  _cluster_job     CPU-bound calls; code of a cluster node
        _adaptive  _cluster_link     an adaptive limiter; the connection to a cluster
    L4  _outcome_queue  _limits      outcomes on their way to the consumer; named limiters
        _observer                    callbacks for items; storage of outcomes
        _cluster  _ray               calls on a cluster; Ray as its engine
        _item_calls                  calls of an item's function: timeouts and retries
    L5  _plan                        the state and options that outlive each run
        _batch_arguments             checks of the arguments of a batch
        _batch_progress              its counts as a value to wait on
    L6  _intake                      how a worker gets its next item
    L7  _engine                      THE engine: a dispatcher and its workers
    L8  _batch                       its public interface
    L9  _run_batch                   run_batch, stream_batch: policies over the batch
        _invariants  _scenario_run   checks after a scenario; one run of it
    L10  testing  progress           cancel a scenario at each of its checkpoints; a progress bar
        telemetry                    spans of OpenTelemetry
    L11  pytest_plugin               a marker that cancels a test at each of its checkpoints

The public names are loaded at the first use of any of them. A worker process of `run_in_process`
uses none of them, so it starts without trio, in half the time.
"""

import importlib as _importlib
import typing as _typing

if _typing.TYPE_CHECKING:
    from nursery_patterns._adaptive import AIMD as AIMD
    from nursery_patterns._adaptive import AdaptiveLimiter as AdaptiveLimiter
    from nursery_patterns._adaptive import Gradient2 as Gradient2
    from nursery_patterns._adaptive import LimitAlgorithm as LimitAlgorithm
    from nursery_patterns._admission import Admission as Admission
    from nursery_patterns._admission import AdmissionStatistics as AdmissionStatistics
    from nursery_patterns._batch import Batch as Batch
    from nursery_patterns._batch import OutcomeStream as OutcomeStream
    from nursery_patterns._batch_progress import BatchProgress as BatchProgress
    from nursery_patterns._cluster import check_in_cluster as check_in_cluster
    from nursery_patterns._cluster import cluster_statistics as cluster_statistics
    from nursery_patterns._cluster import connect_cluster as connect_cluster
    from nursery_patterns._cluster import (
        current_default_cluster_limiter as current_default_cluster_limiter,
    )
    from nursery_patterns._cluster import run_in_cluster as run_in_cluster
    from nursery_patterns._cluster import use_cluster as use_cluster
    from nursery_patterns._cluster_engine import ClusterEngine as ClusterEngine
    from nursery_patterns._cluster_engine import ClusterJob as ClusterJob
    from nursery_patterns._cluster_link import ClusterStatistics as ClusterStatistics
    from nursery_patterns._cluster_link import RemoteTraceback as RemoteTraceback
    from nursery_patterns._cpus import usable_cpus as usable_cpus
    from nursery_patterns._deadline import TimeBudget as TimeBudget
    from nursery_patterns._deadline import time_budget as time_budget
    from nursery_patterns._errors import ClusterError as ClusterError
    from nursery_patterns._errors import ClusterLost as ClusterLost
    from nursery_patterns._errors import FrontierFull as FrontierFull
    from nursery_patterns._errors import NestedBatch as NestedBatch
    from nursery_patterns._errors import Overloaded as Overloaded
    from nursery_patterns._errors import WorkerCrashed as WorkerCrashed
    from nursery_patterns._frontier import Frontier as Frontier
    from nursery_patterns._hedge import HedgePolicy as HedgePolicy
    from nursery_patterns._hedge import HedgeStatistics as HedgeStatistics
    from nursery_patterns._hedge import hedged as hedged
    from nursery_patterns._limiter import CombinedLimiter as CombinedLimiter
    from nursery_patterns._limits import Limits as Limits
    from nursery_patterns._limits import LimitSnapshot as LimitSnapshot
    from nursery_patterns._observer import Journal as Journal
    from nursery_patterns._observer import Observer as Observer
    from nursery_patterns._outcomes import Counts as Counts
    from nursery_patterns._outcomes import Outcome as Outcome
    from nursery_patterns._outcomes import Report as Report
    from nursery_patterns._outcomes import Status as Status
    from nursery_patterns._processes import (
        current_default_process_limiter as current_default_process_limiter,
    )
    from nursery_patterns._processes import run_in_process as run_in_process
    from nursery_patterns._requests import RequestContext as RequestContext
    from nursery_patterns._requests import RequestLogFilter as RequestLogFilter
    from nursery_patterns._requests import current_request as current_request
    from nursery_patterns._requests import request_context as request_context
    from nursery_patterns._retry import Retry as Retry
    from nursery_patterns._run_batch import run_batch as run_batch
    from nursery_patterns._run_batch import stream_batch as stream_batch
    from nursery_patterns._single_flight import SingleFlight as SingleFlight
    from nursery_patterns._single_flight import single_flight as single_flight
    from nursery_patterns._slot import released_slot as released_slot
    from nursery_patterns._step_monitor import BlockedStep as BlockedStep
    from nursery_patterns._step_monitor import StepMonitor as StepMonitor
    from nursery_patterns._threads import abandoned_threads as abandoned_threads
    from nursery_patterns._threads import (
        current_default_thread_limiter as current_default_thread_limiter,
    )
    from nursery_patterns._threads import run_in_thread as run_in_thread
    from nursery_patterns._token_bucket import TokenBucket as TokenBucket
    from nursery_patterns._token_bucket import TokenBucketStatistics as TokenBucketStatistics

__all__ = (
    "AIMD",
    "AdaptiveLimiter",
    "Admission",
    "AdmissionStatistics",
    "Batch",
    "BatchProgress",
    "BlockedStep",
    "ClusterEngine",
    "ClusterError",
    "ClusterJob",
    "ClusterLost",
    "ClusterStatistics",
    "CombinedLimiter",
    "Counts",
    "Frontier",
    "FrontierFull",
    "Gradient2",
    "HedgePolicy",
    "HedgeStatistics",
    "Journal",
    "LimitAlgorithm",
    "LimitSnapshot",
    "Limits",
    "NestedBatch",
    "Observer",
    "Outcome",
    "OutcomeStream",
    "Overloaded",
    "RemoteTraceback",
    "Report",
    "RequestContext",
    "RequestLogFilter",
    "Retry",
    "SingleFlight",
    "Status",
    "StepMonitor",
    "TimeBudget",
    "TokenBucket",
    "TokenBucketStatistics",
    "WorkerCrashed",
    "abandoned_threads",
    "check_in_cluster",
    "cluster_statistics",
    "connect_cluster",
    "current_default_cluster_limiter",
    "current_default_process_limiter",
    "current_default_thread_limiter",
    "current_request",
    "hedged",
    "released_slot",
    "request_context",
    "run_batch",
    "run_in_cluster",
    "run_in_process",
    "run_in_thread",
    "single_flight",
    "stream_batch",
    "time_budget",
    "usable_cpus",
    "use_cluster",
)

# The module of each name.
_HOMES = {
    "_adaptive": (
        "AIMD",
        "AdaptiveLimiter",
        "Gradient2",
        "LimitAlgorithm",
    ),
    "_admission": (
        "Admission",
        "AdmissionStatistics",
    ),
    "_batch": (
        "Batch",
        "OutcomeStream",
    ),
    "_batch_progress": ("BatchProgress",),
    "_cluster": (
        "check_in_cluster",
        "cluster_statistics",
        "connect_cluster",
        "current_default_cluster_limiter",
        "run_in_cluster",
        "use_cluster",
    ),
    "_cluster_engine": (
        "ClusterEngine",
        "ClusterJob",
    ),
    "_cluster_link": (
        "ClusterStatistics",
        "RemoteTraceback",
    ),
    "_cpus": ("usable_cpus",),
    "_deadline": (
        "TimeBudget",
        "time_budget",
    ),
    "_errors": (
        "ClusterError",
        "ClusterLost",
        "FrontierFull",
        "NestedBatch",
        "Overloaded",
        "WorkerCrashed",
    ),
    "_frontier": ("Frontier",),
    "_hedge": (
        "HedgePolicy",
        "HedgeStatistics",
        "hedged",
    ),
    "_limiter": ("CombinedLimiter",),
    "_limits": (
        "Limits",
        "LimitSnapshot",
    ),
    "_observer": (
        "Journal",
        "Observer",
    ),
    "_outcomes": (
        "Counts",
        "Outcome",
        "Report",
        "Status",
    ),
    "_processes": (
        "current_default_process_limiter",
        "run_in_process",
    ),
    "_requests": (
        "RequestContext",
        "RequestLogFilter",
        "current_request",
        "request_context",
    ),
    "_retry": ("Retry",),
    "_run_batch": (
        "run_batch",
        "stream_batch",
    ),
    "_single_flight": (
        "SingleFlight",
        "single_flight",
    ),
    "_slot": ("released_slot",),
    "_step_monitor": (
        "BlockedStep",
        "StepMonitor",
    ),
    "_threads": (
        "abandoned_threads",
        "current_default_thread_limiter",
        "run_in_thread",
    ),
    "_token_bucket": (
        "TokenBucket",
        "TokenBucketStatistics",
    ),
}


if not _typing.TYPE_CHECKING:  # otherwise type checkers would accept every name

    def __getattr__(name: str) -> _typing.Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        _load()
        return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _load() -> None:
    """Load all names at once, so that each has the same `__module__`."""
    for home, names in _HOMES.items():
        module = _importlib.import_module(f"{__name__}.{home}")
        for name in names:
            value = globals()[name] = getattr(module, name)
            # The public module, not the private one.
            value.__module__ = __name__
