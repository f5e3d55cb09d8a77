"""The content of the dashboard: one JSON object of the current activity, for one client.

As in `get_concurrency_status`, a client sees its own calls and operations, and only the number of
those of other clients. The size is bounded: the newest operations, the busiest hosts, the latest
spans.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import trio

from nursery_patterns import Status, abandoned_threads, cluster_statistics
from trio_tools.answers.error_mapping import outcome_failure
from trio_tools.live.state import ServerState
from trio_tools.operations.stored_operation import StoredOperation
from trio_tools.version import __version__

if TYPE_CHECKING:
    from trio_tools.http.fetching.hosts.host import HostState

MAX_OPERATIONS: Final = 50
MAX_FAILED: Final = 20
MAX_IN_PROGRESS: Final = 20
MAX_HOSTS: Final = 30
_MAX_LABEL_CHARS = 200
_RATE_SECONDS = 10.0


def snapshot(state: ServerState, client_id: str) -> dict[str, Any]:
    """Return the current activity, as JSON values.

    Args:
        state: The live server.
        client_id: The client whose calls and operations are shown.
    """
    now = trio.current_time()
    own = [kept for kept in state.store.operations() if kept.owner == client_id]
    newest = heapq.nlargest(MAX_OPERATIONS, own, key=lambda kept: (kept.running, kept.created))
    running = state.store.running()
    return {
        "server": {
            "name": state.settings.name,
            "version": __version__,
            "client": client_id,
            "calls": len(state.calls),
            "worker": None
            if state.workers is None
            else {"index": state.workers.index, "count": state.workers.count},
            "others_running": sum(kept.owner != client_id for kept in running),
        },
        "operations": [operation_view(kept, now) for kept in newest],
        "left_out": len(own) - len(newest),
        "limits": [
            {"name": name, **asdict(limit)} for name, limit in state.limits.snapshot().items()
        ],
        "queues": [
            {"name": name, **asdict(queue.statistics())}
            for name, queue in state.admissions().items()
        ],
        "hosts": _hosts(state, client_id),
        "upstreams": _upstreams(state),
        "cluster": cluster_view(),
        "loop": {
            "threshold_seconds": state.settings.blocked_step_seconds,
            "count": state.monitor.count,
            "latest": [asdict(step) for step in state.monitor.latest[-5:]],
        },
        "work_for_departed_callers": abandoned_threads()
        + sum(call.departed for call in state.calls.values()),
    }


def operation_view(kept: StoredOperation, now: float) -> dict[str, Any]:
    """Return one operation: its counts, rate, time left, timeline and first failed items."""
    counts = kept.batch.progress.value
    total = counts.total or 0
    rate = kept.timeline.rate(now, _RATE_SECONDS) if kept.running else 0.0
    left = total - counts.done if counts.total is not None else None
    deadline = kept.deadline
    return {
        "operation_id": kept.operation_id,
        "tool": kept.tool,
        "operation": kept.batch.name or "",
        "running": kept.running,
        "age_seconds": round(now - kept.created, 1),
        "deadline_left_seconds": None
        if deadline is None or math.isinf(deadline) or not kept.running
        else round(max(0.0, deadline - now), 1),
        "counts": {
            "total": counts.total,
            "succeeded": counts.succeeded,
            "failed": counts.failed,
            "timed_out": counts.timed_out,
            "cancelled": counts.cancelled,
            "not_started": counts.not_started,
            "in_flight": counts.in_flight,
        },
        "in_progress": in_progress(kept),
        "rate_per_second": round(rate, 2),
        "seconds_left": round(left / rate, 1) if rate and left is not None else None,
        "timeline": [
            [index, round(start - now, 3), None if end is None else round(end - now, 3), status]
            for index, start, end, status in kept.timeline.spans()
        ],
        "failed": failed_items(kept) if counts.failed + counts.timed_out else [],
    }


def in_progress(kept: StoredOperation) -> list[dict[str, Any]]:
    """Return the progress of the latest `MAX_IN_PROGRESS` items in flight that report it."""
    return [
        {
            "index": told.index,
            "item": str(kept.work.label_of(told.item))[:_MAX_LABEL_CHARS],
            "progress": told.done,
            "total": told.total,
            "message": told.message,
        }
        for told in islice(kept.timeline.reports(), MAX_IN_PROGRESS)
    ]


def failed_items(kept: StoredOperation, most: int = MAX_FAILED) -> list[dict[str, Any]]:
    """Return the first failed items with their codes and reasons, at most `most`."""
    ends = (Status.FAILED, Status.TIMED_OUT)
    shown: list[dict[str, Any]] = []
    for outcome in kept.batch.report().outcomes:
        if outcome.status in ends:
            failure = outcome_failure(outcome)
            shown.append(
                {
                    "index": outcome.index,
                    "item": str(outcome.item)[:_MAX_LABEL_CHARS],
                    "status": outcome.status.value,
                    "error_code": failure.error_code,
                    "reason": failure.message[:_MAX_LABEL_CHARS],
                }
            )
            if len(shown) == most:
                break
    return shown


def _hosts(state: ServerState, client_id: str) -> list[dict[str, Any]]:
    hosts = state.services.hosts(client_id)

    def weight(name: str) -> tuple[float, int]:
        return hosts[name].cooling_seconds, hosts[name].in_flight + hosts[name].waiting

    busiest: Iterable[str] = heapq.nlargest(MAX_HOSTS, hosts, key=weight)
    return [{"name": name, **host_view(hosts[name])} for name in busiest]


def host_view(host: HostState) -> dict[str, Any]:
    """Return a host as a client may see it: without the names of other clients."""
    return {name: value for name, value in asdict(host).items() if name != "clients"}


def cluster_view() -> dict[str, Any] | None:
    """Return the state of the connection to the cluster; None if no item needed it yet."""
    found = cluster_statistics()
    return None if found is None else asdict(found)


def _upstreams(state: ServerState) -> list[dict[str, Any]]:
    if not state.settings.upstreams:
        return []
    return [
        {"name": name, **asdict(upstream.status())}
        for name, upstream in state.services.upstreams.items()
    ]
