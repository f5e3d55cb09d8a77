"""The live state of one server: what the tools work with and what status tells.

Limits, descriptions, caps and status all read the same objects, so they cannot disagree.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from collections.abc import AsyncGenerator, Generator, Iterable, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from nursery_patterns import Admission, Batch, Limits, Report, Status, StepMonitor
from trio_tools.cursors import Cursors
from trio_tools.errors import InvalidArgument
from trio_tools.operations.builtin import builtin_operations
from trio_tools.operations.registry import AnyOperation, Operations, installed_operations
from trio_tools.services import Services
from trio_tools.settings import Settings, ToolLimits
from trio_tools.store import MemoryStore, OperationStore

_CALLS_REMEMBERED = 200
# How an item may end for good; one in any other state may still be done by a resumed call.
_ENDS = (Status.SUCCEEDED, Status.FAILED, Status.TIMED_OUT)


@dataclass(eq=False)
class RunningCall:
    """One tool call, from its arrival to its answer."""

    request_id: str
    client_id: str
    tool: str
    started: float
    admitted: bool = False
    answered: trio.Event = field(default_factory=trio.Event)
    departed: bool = False
    """The caller left or cancelled, and what it started is still unwinding."""
    waits_for: str | None = None
    """What its tool said it waits for, once admitted."""


@dataclass(eq=False)
class Durations:
    """How long the latest calls of one tool took, in seconds."""

    latest: deque[float] = field(default_factory=lambda: deque[float](maxlen=_CALLS_REMEMBERED))

    def add(self, seconds: float) -> None:
        """Take one more call into account."""
        self.latest.append(seconds)

    def percentile(self, share: float) -> float:
        """Return what that share of the calls did not exceed (nearest rank)."""
        ranked = sorted(self.latest)
        return ranked[max(0, math.ceil(share * len(ranked)) - 1)]


@dataclass(eq=False)
class Pace:
    """How long an item of one operation takes, of late. For advice on batch sizes."""

    seconds: float | None = None

    def add(self, report: Report[Any, Any]) -> None:
        """Take the items of a report into account, half as much as all before."""
        taken = [o.elapsed for o in report.outcomes if o.succeeded]
        if taken:
            mean = sum(taken) / len(taken)
            self.seconds = mean if self.seconds is None else (self.seconds + mean) / 2


class ServerState:
    """Everything that lives as long as one server.

    Attributes:
        settings: What the operator decided.
        limits: Capacity for items in flight, by tool or operation; resizable while in use.
        services: The doors to the outside.
        operations: What `batch_process` can run.
        store: Operations that outlive their calls.
        cursors: Makes and checks page marks of operations.
        query_cursors: The same of query results.
        dataset_cursors: The same of datasets.
        calls: Calls under way, by request id.
        durations: How long calls took of late, by tool.
        ended_items: How many items of batch calls ended, each counted once, by tool and how.
        monitor: Who blocked the event loop.
    """

    def __init__(self, settings: Settings, operations: Iterable[AnyOperation] = ()) -> None:
        self.settings = settings
        self.limits = Limits()
        self._tool_limits: dict[str, ToolLimits] = {}
        self.services = Services(settings, api_limiter=self.limits_of("call_external_api").limiter)
        self.operations = Operations(
            (*builtin_operations(self.services, settings), *operations, *installed_operations())
        )
        self.store: OperationStore = MemoryStore(
            ttl=settings.operation_ttl_seconds,
            capacity=settings.max_operations,
            max_bytes=settings.max_kept_bytes,
        )
        self.cursors = Cursors("trio-tools operations")
        self.query_cursors = Cursors("trio-tools queries")
        self.dataset_cursors = Cursors("trio-tools datasets")
        self.calls: dict[str, RunningCall] = {}
        self.durations: defaultdict[str, Durations] = defaultdict(Durations)
        self.ended_items: Counter[tuple[str, Status]] = Counter()
        # Set when the server begins to stop: a batch call that gets its turn then is not begun.
        self.drained = False
        self.monitor = StepMonitor(threshold=settings.blocked_step_seconds)
        self._admissions: dict[str, Admission] = {}
        self._paces: dict[str, Pace] = {}

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[None]:
        """Keep services open and watch the event loop, for as long as a connection is served."""
        self.drained = False  # which the stop of an earlier one may have left behind
        async with self.services.opened():
            with self.monitor.watching():
                yield

    def limits_of(self, name: str) -> LiveLimits:
        """Return the limits of a tool or operation as they are now."""
        if name not in self._tool_limits:
            self._tool_limits[name] = self.settings.limits_of(name)
        return LiveLimits(name, self._tool_limits[name], self.limits)

    def pace_of(self, name: str) -> Pace:
        """Return how long an item of an operation takes."""
        return self._paces.setdefault(name, Pace())

    @contextmanager
    def counting_items(self, tool: str, batch: Batch[Any, Any]) -> Generator[None]:
        """Count the items of `batch` that end within the block, also if it is cut."""
        before = batch.progress.value
        try:
            yield
        finally:
            after = batch.progress.value
            for end in _ENDS:
                self.ended_items[tool, end] += getattr(after, end) - getattr(before, end)

    def admissions(self) -> Mapping[str, Admission]:
        """Return the lines there are so far, by tool."""
        return self._admissions

    def admission_of(self, tool: str) -> Admission:
        """Return the bounded waiting line for calls of a tool."""
        if tool not in self._admissions:
            declared = self.settings.limits_of(tool)
            calls = trio.CapacityLimiter(declared.max_calls)
            self._admissions[tool] = Admission(calls, max_waiting=declared.max_waiting)
        return self._admissions[tool]


@dataclass(frozen=True)
class LiveLimits:
    """What is declared for a tool or operation, under the capacity that its limiter has now."""

    name: str
    declared: ToolLimits
    limits: Limits = field(repr=False)

    @property
    def limiter(self) -> trio.CapacityLimiter:
        """What items in flight hold places in. Made when first asked for: not all tools have it."""
        if self.name not in self.limits:
            self.limits.resize(self.name, self.declared.max_concurrency)
        return self.limits[self.name]

    @property
    def max_concurrency(self) -> int:
        """Most items in flight over all calls, and the most one call may ask for."""
        return int(self.limiter.total_tokens)

    @property
    def concurrency(self) -> int:
        """Items of one call in flight by default."""
        return min(self.declared.concurrency, self.max_concurrency)

    def concurrency_for(self, asked: int | None) -> int:
        """Return the bound for one call.

        Raises:
            InvalidArgument: More than the cap was asked for; the message names it.
        """
        if asked is None:
            return max(1, self.concurrency)
        cap = max(1, self.max_concurrency)  # 0 is a pause, in which one may wait
        if asked > cap:
            raise InvalidArgument(
                f"max_concurrent must be at most {cap}, got {asked}: lower it, or leave it out "
                "for the default",
                data={"argument": "max_concurrent", "maximum": cap},
            )
        return asked

    def seconds_for(self, asked: float | None) -> float:
        """Return the time for one call.

        Raises:
            InvalidArgument: More than the cap was asked for; the message names it.
        """
        if asked is None:
            return self.declared.timeout_seconds
        return self._within_cap("timeout_seconds", asked)

    def item_seconds_for(self, asked: float | None) -> float | None:
        """Return the time for one item of a call; None for no bound of its own.

        Raises:
            InvalidArgument: More than the cap was asked for; the message names it.
        """
        if asked is None:
            return self.declared.item_timeout_seconds
        return self._within_cap("item_timeout_seconds", asked)

    def _within_cap(self, argument: str, asked: float) -> float:
        cap = self.declared.max_timeout_seconds
        if not asked <= cap:  # NaN is none of them
            raise InvalidArgument(
                f"{argument} must be at most {cap:g}, got {asked:g}: lower it, or split the "
                "work over several calls",
                data={"argument": argument, "maximum": cap},
            )
        return asked
