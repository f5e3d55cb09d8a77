"""The live state of one server, shared by the tools and the status.

Limits, descriptions, caps and status all read the same objects, so they cannot disagree.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import trio

from nursery_patterns import (
    Admission,
    Batch,
    Limits,
    Status,
    StepMonitor,
    current_request,
    use_cluster,
)
from trio_tools.answers.cursors import Cursors
from trio_tools.answers.error_mapping import cluster_failure
from trio_tools.live.calls import Durations, Pace, RunningCall
from trio_tools.live.clients import Clients
from trio_tools.live.jobs import Job, Jobs
from trio_tools.live.limits import LiveLimits
from trio_tools.live.usage import Usage
from trio_tools.live.workers import Workers
from trio_tools.operations.builtin.upstream import UpstreamOperations
from trio_tools.operations.durable.blobs import Stored
from trio_tools.operations.durable.location import Location
from trio_tools.operations.durable.records import Record
from trio_tools.operations.durable.writer import Writer
from trio_tools.operations.durable_store import DurableStore, Revive
from trio_tools.operations.memory_budget import MemoryBudget
from trio_tools.operations.operation import Operation
from trio_tools.operations.registry import (
    AnyOperation,
    Operations,
    builtin_operations,
    installed_operations,
)
from trio_tools.operations.store import MemoryStore
from trio_tools.operations.stored_operation import OperationStore, StoredOperation
from trio_tools.services import Services
from trio_tools.settings import Settings, ToolLimits

_CALLS_REMEMBERED = 200
# Final states of an item. An item in any other state may still be run by a resumed call.
_ENDS = (Status.SUCCEEDED, Status.FAILED, Status.TIMED_OUT)


class ServerState:
    """Everything that lives as long as one server.

    Attributes:
        settings: What the operator decided.
        limits: Capacity for items in flight, by tool or operation; resizable at any time.
        clients: The clients that share the server, and the share of each in a limit.
        usage: The use of each client today.
        services: The connections to external services.
        operations: The operations that `batch_process` can run.
        store: Operations that outlive their calls.
        memory: The memory limit for items in flight and kept results together.
        cursors: Makes and checks cursors of operations.
        query_cursors: Makes and checks cursors of query results.
        dataset_cursors: Makes and checks cursors of datasets.
        calls: Calls under way, by request id.
        durations: How long recent calls took, by tool.
        ended_items: How many items of batch calls ended, each counted once, by tool and how.
        monitor: Reports tasks that blocked the event loop.
        jobs: Work that no call waits for.
        when_begun: Functions to call with an operation when its call begins to run it, by owner
            and id.
        first_jobs: Jobs that start when the first connection is served.
        revive: Restores an operation from its stored form.
        largest_whole_result: Returns the most bytes of JSON that are shown whole in so many
            characters.
        model_names: The models at the latest listing of the tools.
        workers: The workers that serve the same address, if this process is one of several.
    """

    def __init__(self, settings: Settings, operations: Iterable[AnyOperation] = ()) -> None:
        self.settings = settings
        self.limits = Limits()
        self.clients = Clients()
        self._tool_limits: dict[str, ToolLimits] = {}
        # Limits declared by the application's tools, used where the settings have none.
        self._usual_limits: dict[str, ToolLimits] = {}
        self.services = Services(settings, api_limiter=self.limits_of("call_external_api").limiter)
        self.operations = Operations(
            (*builtin_operations(self.services, settings), *operations, *installed_operations()),
            places={name: chosen.runs for name, chosen in settings.operations.items()},
            upstreams=UpstreamOperations(self.services),
        )
        # The tools, which are a higher layer, know how to restore a stored operation.
        self.revive: Revive = _cannot_revive
        store = self._make_store()
        self.store: OperationStore = store
        self.usage = Usage(
            store=store if isinstance(store, DurableStore) else None,
            clients=lambda: self.settings.clients,
        )
        self.memory = MemoryBudget(
            settings.max_memory_bytes,
            max_kept=min(settings.max_kept_bytes, settings.max_memory_bytes),
            kept=lambda: store.kept_bytes,
            let_go=store.let_go,
            make_room=store.make_room,
            will_let_go=lambda: store.will_let_go,
        )
        store.when_dropped = self._dropped
        store.when_let_go = self._freed
        store.when_safe = self.memory.serve
        self.largest_whole_result: Callable[[int], int] = lambda max_chars: max_chars // 2
        self.jobs = Jobs()
        self._writing = Jobs()
        self._counting = Jobs()
        self.cursors = Cursors("trio-tools operations", self.store.key)
        self.query_cursors = Cursors("trio-tools queries", self.store.key)
        self.dataset_cursors = Cursors("trio-tools datasets", self.store.key)
        self.model_names: tuple[str, ...] = ()
        self.workers: Workers | None = None
        self.calls: dict[str, RunningCall] = {}
        self.durations: defaultdict[str, Durations] = defaultdict(Durations)
        self.ended_items: Counter[tuple[str, Status]] = Counter()
        self.when_begun: dict[tuple[str, str], Callable[[StoredOperation], None]] = {}
        self.first_jobs: list[Job] = []
        # Set when the server begins to stop. A batch call that gets its turn after that does not
        # begin.
        self.drained = False
        self.monitor = StepMonitor(threshold=settings.blocked_step_seconds)
        self._admissions: dict[str, Admission] = {}
        self._paces: dict[str, Pace] = {}
        self._checked: set[str] = set()  # operations known to run on the cluster

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[None]:
        """Keep services open and watch the event loop, while a connection is served."""
        self.drained = False  # the stop of an earlier connection may have set it
        if "cluster" in self.settings.model_fields_set:
            use_cluster(self.settings.cluster.address)
        await self.store.open_key()
        shared = self.services.shared_limits
        writing = [self.store.write, *([] if shared is None else [shared.run])]
        async with (
            self.services.opened(),
            self._writing.opened(*writing),
            self._counting.opened(*([self.usage.run] if self.usage.has_store else [])),
            self.jobs.opened(*self.first_jobs, self.store.forget_unused),
        ):
            with self.monitor.watching():
                yield

    def _make_store(self) -> MemoryStore:
        settings = self.settings
        location = Location.of_url(settings.state.url.get_secret_value())
        if location is None:
            return MemoryStore(
                ttl=settings.operation_ttl_seconds,
                capacity=settings.max_operations,
                max_bytes=min(settings.max_kept_bytes, settings.max_memory_bytes),
            )
        return DurableStore(
            location,
            ttl=settings.operation_ttl_seconds,
            capacity=settings.max_operations,
            max_bytes=min(settings.max_kept_bytes, settings.max_memory_bytes),
            max_stored_bytes=settings.state.max_bytes,
            revive=self._revive,
        )

    async def _revive(
        self,
        writer: Writer,
        record: Record,
        stored: Stored,
    ) -> StoredOperation:
        return await self.revive(writer, record, stored)

    def _freed(self, size: int) -> None:
        """Return unused memory to the system."""
        self.memory.given_back(size)

    def _dropped(self, size: int) -> None:
        """Start waiting items that fit into the memory limit now."""
        self._freed(size)
        self.memory.serve()

    @property
    def page_bytes(self) -> int:
        """A result with more bytes of JSON is read in parts."""
        return self.largest_whole_result(self.settings.max_output_chars)

    def limits_of(self, name: str) -> LiveLimits:
        """Return the current limits of a tool or operation."""
        if name not in self._tool_limits:
            self._tool_limits[name] = self._declared(name)
        return LiveLimits(name, self._tool_limits[name], self.limits, self.clients)

    def declare_limits(self, name: str, usual: ToolLimits) -> None:
        """Set the limits of an application's tool that apply where the settings have none."""
        self._usual_limits[name] = usual
        self._tool_limits[name] = self._declared(name)

    def _declared(self, name: str) -> ToolLimits:
        if name not in self._usual_limits:
            return self.settings.limits_of(name)
        given = self.settings.limits.get(name)
        chosen = {} if given is None else given.model_dump(include=given.model_fields_set)
        return self._usual_limits[name].under(chosen)

    def take(self, settings: Settings) -> None:
        """Apply other settings while calls run.

        A lower limit takes effect at once for waiting items; running items keep their tokens. A
        capacity that was set by `limits.resize` stays unless the settings of that limit changed.
        """
        self.settings = settings
        self.services.take(settings)
        before = self._tool_limits
        self._tool_limits = {name: self._declared(name) for name in before}
        for name, declared in self._tool_limits.items():
            if declared == before[name]:
                continue
            if name in self.limits:
                self.limits.resize(name, declared.max_concurrency)
            if (line := self._admissions.get(name)) is not None:
                line.limiter.total_tokens = declared.max_calls
                line.max_waiting = declared.max_waiting

    async def prepare(self, operation: Operation) -> None:
        """Before the first items of an operation, check that the cluster can run it, if it must.

        Raises:
            ToolFailure: It cannot; nothing was run.
        """
        if operation.on_cluster and operation.name not in self._checked:
            try:
                await operation.check_cluster()
            except Exception as error:
                raise cluster_failure(operation.name, error) from error
            self._checked.add(operation.name)

    def pace_of(self, name: str) -> Pace:
        """Return how long an item of an operation takes."""
        return self._paces.setdefault(name, Pace())

    @contextmanager
    def counting_items(self, tool: str, batch: Batch[Any, Any]) -> Generator[None]:
        """Count the items of `batch` that end within the block, also if it is cancelled."""
        before = batch.progress.value
        try:
            yield
        finally:
            after = batch.progress.value
            ended = {end: getattr(after, end) - getattr(before, end) for end in _ENDS}
            for end, count in ended.items():
                self.ended_items[tool, end] += count
            request = current_request()
            self.usage.add_items(request.client_id if request else "anonymous", sum(ended.values()))

    def admissions(self) -> Mapping[str, Admission]:
        """Return the queues that exist so far, by tool."""
        return self._admissions

    def admission_of(self, tool: str) -> Admission:
        """Return the bounded queue for calls of a tool."""
        if tool not in self._admissions:
            declared = self.limits_of(tool).declared
            calls = trio.CapacityLimiter(declared.max_calls)
            self._admissions[tool] = Admission(calls, max_waiting=declared.max_waiting)
        return self._admissions[tool]


async def _cannot_revive(*_: object) -> StoredOperation:
    raise RuntimeError("this state has no tools, so nothing stored can be brought back")
