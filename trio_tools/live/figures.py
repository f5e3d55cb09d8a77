"""The figures of a server at this moment: one description for `/metrics` and for OpenTelemetry.

Label values are the server's own names and never come from a request. So no client can add
values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import trio

from trio_tools.live.state import ServerState
from trio_tools.settings.logs import dropped_records


class Figure(NamedTuple):
    """One figure, for each value of its labels.

    Attributes:
        name: Begins with `trio_tools_`; a counter's has no `_total`.
        help: What it counts, in a sentence.
        kind: A counter only grows.
        labels: Names of the labels.
        values: By the values of the labels.
    """

    name: str
    help: str
    kind: Literal["gauge", "counter"]
    labels: tuple[str, ...]
    values: Mapping[tuple[str, ...], float]


def process_figures() -> Iterator[Figure]:
    """Yield the figures of the process."""
    yield _one(
        "dropped_log_records",
        "Log records that were dropped because standard error was not read in time.",
        "counter",
        dropped_records(),
    )
    yield _one(
        "tasks",
        "Tasks that live in this trio run, the host's own included.",
        "gauge",
        trio.lowlevel.current_statistics().tasks_living,
    )


def figures_of(state: ServerState) -> Iterator[Figure]:
    """Yield the figures of this server."""
    yield Figure(
        "trio_tools_items",
        "Items of batch calls that ended, each once, by how.",
        "counter",
        ("tool", "status"),
        {(tool, status.value): ended for (tool, status), ended in state.ended_items.items()},
    )
    limits = state.limits.snapshot()
    lines = {name: line.statistics() for name, line in state.admissions().items()}
    yield _gauge("capacity", "Most items at once.", "limit", limits, "capacity")
    yield _gauge("in_use", "Items in flight.", "limit", limits, "in_use")
    yield _gauge("waiting", "Items that wait for a slot.", "limit", limits, "waiting")
    yield _gauge("calls_running", "Calls at work.", "tool", lines, "holding")
    yield _gauge("calls_waiting", "Calls that wait for their turn.", "tool", lines, "waiting")
    yield from _of_clients(state)
    yield from _of_upstreams(state)
    yield from _of_hedging(state)
    yield _one(
        "blocked_steps",
        "Task steps that held the event loop too long.",
        "counter",
        state.monitor.count,
    )


def _of_clients(state: ServerState) -> Iterator[Figure]:
    """Yield the use of today; clients without an entry in the settings count as `other`."""
    known = {*state.settings.clients, *state.settings.http.tokens}
    for field, text in (("calls", "Calls taken today (UTC)."), ("items", "Items ended today.")):
        used = dict.fromkeys((*known, "other"), 0)
        for client_id in list(state.usage.all()):
            used[client_id if client_id in known else "other"] += getattr(
                state.usage.of(client_id), field
            )
        values = {(client_id,): float(count) for client_id, count in used.items()}
        yield Figure(f"trio_tools_client_{field}_today", text, "gauge", ("client",), values)


def _of_upstreams(state: ServerState) -> Iterator[Figure]:
    if not state.settings.upstreams:
        return
    statuses = {name: each.status() for name, each in state.services.upstreams.items()}
    up = {(name,): float(status.state == "connected") for name, status in statuses.items()}
    text = "Whether the upstream is connected."
    yield Figure("trio_tools_upstream_up", text, "gauge", ("upstream",), up)
    yield _gauge("upstream_in_flight", "Calls in flight.", "upstream", statuses, "in_flight")
    for field, text in (
        ("calls", "Calls that ended."),
        ("restarts", "Starts after a loss."),
        ("let_go", "Cancelled calls that the upstream did not react to within a second."),
    ):
        values = {(name,): float(getattr(status, field)) for name, status in statuses.items()}
        yield Figure(f"trio_tools_upstream_{field}", text, "counter", ("upstream",), values)


def _of_hedging(state: ServerState) -> Iterator[Figure]:
    hedging = state.services.hedging
    if hedging is None:
        return
    for name, text, value in (
        ("hedges", "Second requests sent because the first was late.", hedging.hedges),
        ("hedges_won", "Fetches whose second request was answered first.", hedging.won),
        ("hedges_refused", "Second requests that the budget did not allow.", hedging.refused),
    ):
        yield _one(f"fetch_{name}", text, "counter", value)


def _one(name: str, text: str, kind: Literal["gauge", "counter"], value: float) -> Figure:
    return Figure(f"trio_tools_{name}", text, kind, (), {(): value})


def _gauge(
    name: str, text: str, label: str, statistics: Mapping[str, object], field: str
) -> Figure:
    values = {(key,): float(getattr(each, field)) for key, each in statistics.items()}
    return Figure(f"trio_tools_{name}", text, "gauge", (label,), values)
