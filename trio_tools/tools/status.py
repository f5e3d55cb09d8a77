"""`get_concurrency_status`: the current activity, read from the live objects.

A client sees all of its own calls and operations, and only the number of those of other clients.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Any

import trio
from mcp.types import ToolAnnotations

from nursery_patterns import abandoned_threads
from trio_tools.answers.texts import counted
from trio_tools.live.calls import Durations, RunningCall
from trio_tools.live.snapshot import cluster_view, host_view, in_progress
from trio_tools.live.state import ServerState
from trio_tools.operations.stored_operation import StoredOperation
from trio_tools.tools.batches.answers import counts_of
from trio_tools.tools.call import Answer, Call
from trio_tools.tools.declaring.declaration import Tool

if TYPE_CHECKING:
    from trio_tools.http.fetching.hosts.host import HostState

# Share of a budget that the advice uses.
_SAFETY = 0.8
_MAX_HOSTS = 50
_MAX_FILES = 20
# As in the guideline, adapted to this server.
_RECOMMENDATIONS = {
    "small_batch": "For fewer than 10 items one call is as good as any: give them all at once.",
    "large_batch": "For more than 100 items set timeout_seconds, use background, or detail="
    "'summary': what does not fit into an answer is read with get_operation.",
    "mixed_operations": "Slow and fast operations have limits of their own: give each its own "
    "batch.",
}
_MAX_LEFT_OUT = 20


async def get_concurrency_status(call: Call) -> Answer:
    """Show limits, what is in use and waits, running operations, and advice on batch sizes."""
    await trio.lowlevel.checkpoint()
    state = call.state
    now = trio.current_time()
    operations = state.store.running()
    by_request = {kept.request_id: kept for kept in operations}
    own_calls = [running for running in state.calls.values() if running.client_id == call.client_id]
    own_operations = [kept for kept in operations if kept.owner == call.client_id]
    hosts = state.services.hosts(call.client_id)
    departed = sum(running.departed for running in state.calls.values())
    limits = {name: _limit(state, name) for name in state.limits}
    queues = _queues(state)
    busy = sum(limit["in_use"] for limit in limits.values())
    waiting = sum(queue["waiting"] for queue in queues.values())
    shared = state.services.shared_limits
    hedging = state.services.hedging
    not_written = _files_not_written(state, call.client_id)
    workers = None if state.workers is None else await state.workers.status()
    return Answer(
        warnings=_warnings(state, not_written),
        summary=(
            f"{counted(len(state.calls), 'call')} under way ({waiting} waiting for their turn), "
            f"{counted(busy, 'item')} in flight, "
            f"{counted(len(operations), 'batch operation')} running.{_of_workers(workers)}"
        ),
        data={
            "workers": workers,
            "limits": limits,
            "queues": queues,
            "lines": queues,  # the former name
            "calls": [_call(it, by_request.get(it.request_id), now) for it in own_calls],
            "operations": [_operation(kept, now) for kept in own_operations],
            "files_not_written": not_written[:_MAX_FILES],
            "usage": _usage(state, call.client_id),
            "others": {
                "calls": _by_tool(state.calls.values(), own_calls),
                "operations": _by_tool(operations, own_operations),
            },
            "hosts": _busiest(hosts),
            "hosts_left_out": max(0, len(hosts) - _MAX_HOSTS),
            "rate_limits": {
                name: asdict(api.rate_limit()) for name, api in state.services.apis.items()
            },
            "hedging": None if hedging is None else asdict(hedging),
            "shared_limits": None if shared is None else shared.status(),
            "upstreams": _upstreams(state),
            "cluster": cluster_view(),
            "memory": asdict(state.memory.statistics()),
            "state": _store(state),
            "blocked_loop": _blocked(state),
            "work_for_departed_callers": departed + abandoned_threads(),
            "durations": _durations(state),
            "advice": (advice := _advice(state)),
            "recommendations": {**_RECOMMENDATIONS, "by_operation": advice},
        },
    )


def _of_workers(workers: dict[str, Any] | None) -> str:
    """Add whose figures these are, and the figures of all workers."""
    if workers is None:
        return ""
    total = workers["all"]
    return (
        f" This is worker {workers['answered_by']} of {workers['count']}; all of them together "
        f"have {counted(total['calls_running'], 'call')} running, {total['calls_waiting']} "
        f"waiting and {counted(total['items_in_flight'], 'item')} in flight."
    )


def _call(running: RunningCall, kept: StoredOperation | None, now: float) -> dict[str, Any]:
    if not running.admitted:
        waits_for = "its turn"
    elif kept is not None:
        in_flight = kept.batch.progress.value.in_flight
        short = kept.memory is not None and kept.memory.waits
        waits_for = f"its {counted(in_flight, 'item')} in flight" if in_flight else "a slot"
        waits_for = "memory" if short and not in_flight else waits_for
    else:
        waits_for = running.waits_for
    return {
        "request_id": running.request_id,
        "client_id": running.client_id,
        "tool": running.tool,
        "age_seconds": round(now - running.started, 3),
        "waits_for": waits_for,
        "departed": running.departed,
    }


def _files_not_written(state: ServerState, client_id: str) -> list[dict[str, Any]]:
    """Return the ended operations of a client whose `output_file` was not written."""
    return [
        {"operation_id": kept.operation_id, "output_file": output.path, "reason": output.trouble}
        for kept in state.store.operations()
        if kept.owner == client_id
        and (output := kept.output) is not None
        and output.trouble
        and not kept.goes_on
    ]


def _warnings(state: ServerState, not_written: list[dict[str, Any]]) -> list[str]:
    shared = state.services.shared_limits
    warnings = [shared.warning()] if shared is not None and shared.trouble else []
    if not_written:
        warnings.append(
            f"{counted(len(not_written), 'output_file')} could not be written: see "
            "`files_not_written` for each and its reason."
        )
    return warnings


def _usage(state: ServerState, client_id: str) -> dict[str, Any]:
    """Return the use of the caller today, and its quotas."""
    used, client = state.usage.of(client_id), state.settings.client(client_id)
    return {
        "calls_today": used.calls,
        "items_today": used.items,
        "calls_per_day": client.calls_per_day,
        "items_per_day": client.items_per_day,
        "kept_in": "state" if state.usage.is_kept(client_id) else "memory",
        "seconds_left_today": state.usage.seconds_left(),
        "weight": client.weight,
        "priority": client.priority,
    }


def _by_tool(
    everyones: Iterable[RunningCall | StoredOperation],
    own: Iterable[RunningCall | StoredOperation],
) -> dict[str, int]:
    """Count the calls of other clients, by tool."""
    return dict(Counter(it.tool for it in everyones) - Counter(it.tool for it in own))


def _busiest(hosts: Mapping[str, HostState]) -> dict[str, Any]:
    def weight(name: str) -> tuple[int, float]:
        host = hosts[name]
        return host.in_flight + host.waiting, host.cooling_seconds

    return {name: host_view(hosts[name]) for name in heapq.nlargest(_MAX_HOSTS, hosts, key=weight)}


def _limit(state: ServerState, name: str) -> dict[str, Any]:
    snapshot = asdict(state.limits.snapshot()[name])
    return {**snapshot, "per_call": state.limits_of(name).concurrency}


def _queues(state: ServerState) -> dict[str, dict[str, Any]]:
    return {name: asdict(queue.statistics()) for name, queue in state.admissions().items()}


def _operation(kept: StoredOperation, now: float) -> dict[str, Any]:
    counts = kept.batch.progress.value
    left = None if kept.deadline is None or math.isinf(kept.deadline) else kept.deadline - now
    return {
        "operation_id": kept.operation_id,
        "tool": kept.tool,
        "age_seconds": round(now - kept.created, 3),
        "deadline_left_seconds": None if left is None else round(left, 3),
        "in_flight": counts.in_flight,
        **counts_of(counts),
        "in_progress": in_progress(kept),
    }


def _store(state: ServerState) -> dict[str, Any]:
    """Return whether outcomes are stored in the configured place, and why not."""
    trouble = state.store.trouble
    return {"in_memory_only": bool(trouble), "trouble": trouble or None}


def _blocked(state: ServerState) -> dict[str, Any]:
    monitor = state.monitor
    return {
        "threshold_seconds": state.settings.blocked_step_seconds,
        "count": monitor.count,
        "worst": asdict(monitor.worst) if monitor.worst else None,
        "latest": [asdict(step) for step in monitor.latest[-5:]],
    }


def _durations(state: ServerState) -> dict[str, Any]:
    """Return the durations of the latest calls of each tool."""
    return {
        tool: {
            "calls": len(durations.latest),
            "p50_seconds": round(durations.percentile(0.5), 3),
            "p95_seconds": round(durations.percentile(0.95), 3),
        }
        for tool, durations in state.durations.items()
    }


def _upstreams(state: ServerState) -> dict[str, dict[str, Any]]:
    """Return the status of the upstream MCP servers."""
    if not state.settings.upstreams:
        return {}
    told: dict[str, dict[str, Any]] = {}
    for name, upstream in state.services.upstreams.items():
        status = asdict(upstream.status())
        left_out: dict[str, str] = status.pop("tools_left_out")
        del status["pid"]
        durations = Durations(upstream.seconds)
        told[name] = {
            **status,
            "max_concurrent": upstream.settings.calls_at_once,
            "tools_left_out": dict(islice(left_out.items(), _MAX_LEFT_OUT)),
            "p50_seconds": durations.percentile(0.5) if durations.latest else None,
            "p95_seconds": durations.percentile(0.95) if durations.latest else None,
        }
    return told


def _advice(state: ServerState) -> list[str]:
    """Return how many items fit into a call, from recent durations."""
    advice: list[str] = []
    budget = state.settings.limits_of("batch_process").timeout_seconds
    for name in state.limits:
        seconds = state.pace_of(name).seconds
        if not seconds:
            continue
        parallel = state.limits_of(name).concurrency
        fitting = min(int(budget / seconds * parallel * _SAFETY), state.settings.max_items)
        advice.append(
            f"{name}: an item takes {seconds:.3g} s recently, so about {max(1, fitting)} fit into "
            f"one call of {budget:g} s with {parallel} in parallel."
        )
    return advice


GET_CONCURRENCY_STATUS = Tool(
    fn=get_concurrency_status,
    title="Concurrency status",
    execution="sync, at once",
    annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False),
    control=True,
)
