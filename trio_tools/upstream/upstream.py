"""One upstream: started at first use, restarted with back-off, closed when idle.

At any instant it has at most one connection, and one task owns it. The state determines the
actions of that task and of callers. They share nothing else:

    state         a call that comes                       leaves it when
    not_started   starts the owner, and waits             a call comes
    starting      waits                                   it is ready, or cannot be
    connected     is made                                 it is idle, or lost
    restarting    waits                                   the back-off is over
    failed        fails at once, with the reason; after   a call comes after the back-off
                  the back-off it starts the owner
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final

import trio

from trio_tools.answers.errors import UpstreamFailed
from trio_tools.settings import UpstreamSettings
from trio_tools.upstream.catalog import Catalog, UpstreamTool
from trio_tools.upstream.client_requests import ClientRequests
from trio_tools.upstream.connection import Connection, Mode
from trio_tools.upstream.content import value_of
from trio_tools.upstream.failures import ConnectionLost
from trio_tools.upstream.launch import Launch, Program, launch_of
from trio_tools.upstream.messages import ProgressCallback
from trio_tools.upstream.status import Restarts, State, UpstreamStatus

_log = logging.getLogger("trio_tools.upstream")

_CALLS_REMEMBERED: Final = 200


class Upstream:
    """One upstream of this server. Made and owned by `Upstreams`.

    Args:
        name: Its name in the settings.
        settings: The operator's settings.
        own_name: The name of this server.
        start_owner: Starts `own` in a nursery.
        on_tools_changed: Called when the set of usable tools has changed.

    Attributes:
        name: Its name in the settings.
        settings: The operator's settings.
        catalog: Its tools, as last listed; None before its first start.
        seconds: The durations of the latest calls.
    """

    def __init__(
        self,
        name: str,
        settings: UpstreamSettings,
        *,
        own_name: str,
        start_owner: Callable[[Upstream], None],
        on_tools_changed: Callable[[], None],
    ) -> None:
        self.name = name
        self.settings = settings
        self.catalog: Catalog | None = None
        self.seconds = deque[float](maxlen=_CALLS_REMEMBERED)
        self._own_name = own_name
        self._start_owner = start_owner
        self._on_tools_changed = on_tools_changed
        self._state: State = "not_started"
        self._owned = False
        self._connection: Connection | None = None
        self._changed = trio.Event()
        # The reason why callers fail at once, and the end of that state.
        self._failure: UpstreamFailed | None = None
        self._retry_at = -math.inf
        self._restarts = Restarts()
        # Number of calls that have begun and not ended; whether it is closed at zero.
        self._users = 0
        self._retired = False
        self._mode: Mode = "auto"
        self._calls = self._let_go = 0
        self._last_error: str | None = None

    # --- for callers

    async def call(
        self, tool: str, arguments: dict[str, Any], on_progress: ProgressCallback | None = None
    ) -> Any:
        """Call a tool; return its value as `content.value_of` says.

        It is started if necessary. A call that had not been sent when the upstream was lost waits
        for the next connection. A call that had been sent is repeated once if the tool is
        read-only or idempotent. The caller's deadline bounds the time of all this.

        Args:
            tool: The upstream's name of the tool.
            arguments: Arguments that match the tool's schema.
            on_progress: Called with the progress that the tool reports: done, total or None, and
                message or None. It must not wait.

        Raises:
            UpstreamFailed: It cannot be started, was lost, or the tool failed.
            NotFound: The tool does not exist.
            Forbidden: The settings do not allow the tool.
        """
        with self._in_use():
            return await self._call(tool, arguments, on_progress)

    async def _call(
        self, tool: str, arguments: dict[str, Any], on_progress: ProgressCallback | None
    ) -> Any:
        again = True
        while True:
            connection = await self._connected()
            found = self.tool(tool)
            started = trio.current_time()
            try:
                raw = await connection.call(tool, arguments, on_progress)
            except ConnectionLost as lost:
                if not lost.sent:
                    continue
                if not (again and found.repeatable):
                    raise self._lost_in_mid_call(tool) from None
                again = False
                continue
            finally:
                self._calls += 1
            self.seconds.append(trio.current_time() - started)
            return value_of(raw)

    async def tools(self) -> Catalog:
        """Return its tools. Start it if necessary.

        Raises:
            UpstreamFailed: It cannot be started.
        """
        if self.catalog is None:
            with self._in_use():
                await self._connected()
        assert self.catalog is not None
        return self.catalog

    def tool(self, name: str) -> UpstreamTool:
        """Return a tool that may be used.

        Raises:
            NotFound: The tool does not exist.
            Forbidden: The settings do not allow it.
        """
        catalog = Catalog({}, {}) if self.catalog is None else self.catalog
        return catalog.usable(name, self.name)

    def retire(self) -> None:
        """Close it when its last call has ended, or now without calls. It is no longer listed."""
        self._retired = True
        self._leave_if_unused()

    @contextmanager
    def _in_use(self) -> Generator[None]:
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            self._leave_if_unused()

    @property
    def _unused(self) -> bool:
        return self._retired and not self._users

    def _leave_if_unused(self) -> None:
        if self._unused and self._connection is not None:
            self._connection.leave()

    async def _connected(self) -> Connection:
        while True:
            connection = self._connection
            if connection is not None and connection.usable:
                return connection
            if self._failure is not None and trio.current_time() < self._retry_at:
                raise self._told(self._failure)
            self.begin()
            await self._changed.wait()

    def begin(self) -> None:
        """Start the owner, unless it runs. The status has the result."""
        if not self._owned:
            self._start_owner(self)
            self._failure = None
            self._owned = True

    def _told(self, failure: UpstreamFailed) -> UpstreamFailed:
        left = max(0.0, self._retry_at - trio.current_time())
        return UpstreamFailed(
            f"upstream {self.name} cannot be used: {failure.message}",
            error_code=failure.error_code,
            data={"upstream": self.name, "retry_after_seconds": round(left, 3)},
        )

    def _lost_in_mid_call(self, tool: str) -> UpstreamFailed:
        return UpstreamFailed(
            f"upstream {self.name} was lost while {tool} was at work: it may have been done, so "
            "look before you do it again",
            error_code="UPSTREAM_LOST",
        )

    # --- for the owner

    async def own(self) -> None:
        """Own the connection: start it, restart it after a loss, until it is idle or has failed.

        Runs in the server's nursery, one at a time. A cancel closes the connection.
        """
        with self._as_owner():
            while not self._unused:
                try:
                    await self._one_life()
                except UpstreamFailed as failure:
                    if self._unused or await self._over_with(failure):
                        return
                else:
                    self._enter("not_started")
                    return

    @contextmanager
    def _as_owner(self) -> Generator[None]:
        self._owned = True
        try:
            yield
        finally:
            self._owned = False
            if self._state != "failed":
                self._enter("not_started")

    async def _one_life(self) -> None:
        """Hold one connection until its end; return if it ended because it was idle."""
        self._enter("starting")
        launch = launch_of(self.settings)
        try:
            await self._connect(launch)
        except UpstreamFailed:
            # Some servers end if their first message is not `initialize`.
            first = self._state == "starting" and self._mode == "auto"
            if not (first and isinstance(launch.target, Program) and self.catalog is None):
                raise
            self._mode = "legacy"
            await self._connect(launch)

    async def _connect(self, launch: Launch) -> None:
        connection = Connection(
            self.settings,
            launch,
            mode=self._mode,
            own_name=self._own_name,
            catalog=self.catalog,
            on_catalog=self._take_catalog,
            requests=ClientRequests(self.name),
        )
        try:
            await connection.run(self._ready)
        finally:
            self._connection = None
            self._let_go += connection.let_go
            if connection.link.last_trouble:
                self._last_error = launch.redacted(connection.link.last_trouble)
            self._restarts.note_end(answered=connection.answered > 0)

    def _ready(self, connection: Connection) -> None:
        # Over stdio the first request determines the era, so it is probed only once.
        if not connection.modern:
            self._mode = "legacy"
        self._connection = connection
        self._enter("connected")
        self._leave_if_unused()

    async def _over_with(self, failure: UpstreamFailed) -> bool:
        """Wait until it may be restarted; return True if only a new call may do that."""
        was_ready = self._state == "connected"
        self._last_error = failure.message
        _log.warning("upstream %s: %s", self.name, failure.message)
        if self._restarts.gives_up(was_ready=was_ready):
            self._failure = failure
            self._retry_at = trio.current_time() + self._restarts.pause
            self._enter("failed")
            if self.settings.start == "lazy":
                return True
            await trio.sleep_until(self._retry_at)
            self._failure = None
        else:
            self._enter("restarting")
            await trio.sleep(self._restarts.delay)
        self._restarts.count += 1
        return False

    def _take_catalog(self, catalog: Catalog) -> None:
        before = self.catalog
        self.catalog = catalog
        if before is None or before.allowed != catalog.allowed:
            self._on_tools_changed()

    def _enter(self, state: State) -> None:
        self._state = state
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    # --- for the status

    def status(self) -> UpstreamStatus:
        """Return the current status."""
        connection, catalog = self._connection, self.catalog
        trouble = connection.link.last_trouble if connection else None
        return UpstreamStatus(
            state=self._state,
            in_flight=connection.in_flight if connection else 0,
            calls=self._calls,
            restarts=self._restarts.count,
            let_go=self._let_go + (connection.let_go if connection else 0),
            last_error=trouble or self._last_error,
            pid=connection.link.pid if connection else None,
            tools=len(catalog.allowed) if catalog is not None else None,
            tools_refused=len(catalog) - len(catalog.allowed) if catalog is not None else None,
            tools_left_out=dict(catalog.left_out) if catalog is not None else {},
        )
