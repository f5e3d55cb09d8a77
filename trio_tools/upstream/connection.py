"""One connection to an upstream, from its handshake to its end.

`run` is the connection: it belongs to the one task that calls it, and everything of the
connection ends with it. Callers hold only a reference, and get a `ConnectionLost` when it has
ended.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Literal

import trio
from mcp.client import Client, ClientSession
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CallToolRequest,
    CallToolRequestParams,
    Implementation,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import RootModel, ValidationError

from trio_tools.answers.errors import UpstreamFailed
from trio_tools.settings import UpstreamSettings
from trio_tools.settings.telemetry.seam import current_tracing
from trio_tools.upstream.cancels import Cancels
from trio_tools.upstream.catalog import Catalog
from trio_tools.upstream.client_requests import ClientRequests
from trio_tools.upstream.failures import (
    ConnectionLost,
    call_failure,
    explained,
    opening_failure,
)
from trio_tools.upstream.http import over_http
from trio_tools.upstream.launch import Launch, Program
from trio_tools.upstream.messages import (
    Link,
    ProgressCallback,
    Sending,
    sending,
)
from trio_tools.upstream.stdio import over_stdio
from trio_tools.upstream.tool_list import ToolList
from trio_tools.version import __version__

Mode = Literal["auto", "legacy"]


class _Raw(RootModel[dict[str, Any]]):
    """A result as received, after the SDK's checks."""


class Connection:
    """A connection. `run` opens and closes it.

    Args:
        settings: The settings of the upstream.
        launch: The program or URL of the upstream.
        mode: How the era of the protocol is detected.
        own_name: The name of this server; an upstream with that name is refused.
        catalog: Its tools, if known from before.
        on_catalog: Called with its tools after the handshake and after each change.
        requests: Answers the requests of the upstream.

    Attributes:
        link: The state of its transport.
        in_flight: Number of calls that were made and not answered.
        answered: Number of answered calls.
        modern: Whether it uses the protocol of 2026.
    """

    def __init__(
        self,
        settings: UpstreamSettings,
        launch: Launch,
        *,
        mode: Mode,
        own_name: str,
        catalog: Catalog | None,
        on_catalog: Callable[[Catalog], None],
        requests: ClientRequests,
    ) -> None:
        self._settings = settings
        self._launch = launch
        self._mode: Mode = mode
        self._own_name = own_name
        self._requests = requests
        self._over_stdio = isinstance(launch.target, Program)
        self.link = Link()
        self.in_flight = 0
        self.answered = 0
        self.modern = False
        self._session: ClientSession | None = None
        self._protocol: str | None = None
        self._calls = 0
        self._closing = self._idle = False
        self._used = -math.inf
        self._tools = ToolList(settings, self.link, catalog, on_catalog)
        self._cancels = Cancels()

    @property
    def let_go(self) -> int:
        """Cancelled calls whose upstream did not react within a second."""
        return self._cancels.let_go

    @property
    def usable(self) -> bool:
        """Whether a call can be made."""
        return self._session is not None and not self._closing and not self.link.lost.is_set()

    async def run(self, ready: Callable[[Connection], None]) -> None:
        """Open the connection, call `ready`, and hold it until it is idle or lost.

        Returns after the idle time without a call. A cancel closes it within a second.

        Raises:
            UpstreamFailed: It could not be opened, or was lost; the message says why.
        """
        seconds = self._settings.start_timeout_seconds
        failure: UpstreamFailed | None = None
        with trio.move_on_after(seconds) as starting:
            try:
                async with self._client() as client:
                    await self._open(client)
                    starting.deadline = math.inf
                    await self._hold(client, ready)
            except* Exception as errors:  # noqa: BLE001 - of a foreign program; a cancel beside them goes on
                failure = opening_failure(errors, self._launch, self.link)
            finally:
                self._closing = True
        if failure is not None:
            raise failure
        if starting.cancelled_caught:
            raise explained(
                f"it was not ready within {seconds:g} s: raise start_timeout_seconds if it is slow",
                self._launch,
                self.link,
            )
        if not self._idle:
            raise explained("it ended", self._launch, self.link)

    def _client(self) -> Client:
        return Client(
            self._transport(),
            mode=self._mode,
            cache=None,
            message_handler=self._tools.hear,
            sampling_callback=self._requests.sample,
            elicitation_callback=self._requests.elicit,
            list_roots_callback=self._requests.list_roots,
            client_info=Implementation(name=self._own_name, version=__version__),
        )

    def _transport(self) -> AbstractAsyncContextManager[Any]:
        most, target = self._settings.max_reply_bytes, self._launch.target
        if isinstance(target, Program):
            return over_stdio(target, self.link, most=most)
        at_once = self._settings.calls_at_once
        return over_http(target, self.link, most=most, calls_at_once=at_once)

    async def _open(self, client: Client) -> None:
        if client.server_info is not None and client.server_info.name == self._own_name:
            raise UpstreamFailed(
                f"it calls itself {self._own_name!r}, as this server does: it is this server, or "
                "needs another name",
                error_code="UPSTREAM_LOOP",
            )
        self._session = client.session
        self._protocol = client.protocol_version
        self.modern = client.protocol_version in MODERN_PROTOCOL_VERSIONS
        await self._tools.read(client.session)

    async def _hold(self, client: Client, ready: Callable[[Connection], None]) -> None:
        self._used = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tools.follow_changes, client.session)
            if self._over_stdio:
                nursery.start_soon(self._cancels.see_through, client.session)
            tools = client.server_capabilities.tools
            if self.modern and tools is not None and tools.list_changed:
                nursery.start_soon(self._tools.listen, client)
            if self._settings.start == "lazy":
                nursery.start_soon(self._leave_when_idle)
            ready(self)
            await self.link.lost.wait()
            self._closing = True
            nursery.cancel_scope.cancel(reason="the connection is over")

    async def _leave_when_idle(self) -> None:
        while True:
            latest = trio.current_time() if self.in_flight else self._used
            due = latest + self._settings.idle_seconds
            if due <= trio.current_time():
                break
            await trio.sleep_until(due)
        self.leave()

    def leave(self) -> None:
        """End an idle connection. No call may be in flight."""
        self._closing = self._idle = True
        self.link.lost.set()

    async def call(
        self, tool: str, arguments: dict[str, Any], on_progress: ProgressCallback | None = None
    ) -> dict[str, Any]:
        """Call a tool and return its result as JSON values.

        A cancel sends a cancel to the upstream, or closes the stream of the answer, and returns.

        Raises:
            ConnectionLost: The connection has ended; `sent` says whether the call had been sent.
            UpstreamFailed: It answered with an error or an invalid result, or made too many
                requests to its client.
        """
        if self._settings.exclusive:
            await self._cancels.wait_until_settled()
        session, this = self._session, Sending()
        if session is None or not self.usable:
            raise ConnectionLost(sent=False)
        self._calls += 1
        number = self._calls
        params = CallToolRequestParams(name=tool, arguments=arguments)
        if on_progress is not None:
            params.meta = {"progress_token": number}
            self.link.progress[number] = on_progress
        request = CallToolRequest(params=params)
        token = sending.set(this)
        self.in_flight += 1
        answered = False
        try:
            with self._span_of(tool):  # the SDK puts its context into `_meta`
                raw = await self._requests.during(partial(session.send_request, request, _Raw))
            answered = True
        except MCPError as error:
            answered = True
            raise self._call_failure(error, this) from None
        except ValidationError:
            answered = True
            raise UpstreamFailed(
                "its answer is not a valid result of a tool call", error_code="BAD_ANSWER"
            ) from None
        finally:
            sending.reset(token)
            self.link.progress.pop(number, None)
            self.in_flight -= 1
            self._used = trio.current_time()
            if not answered and this.sent and self._over_stdio:
                self._cancels.sent()
        self.answered += 1
        return self._launch.redacted_result(raw.root)

    def _span_of(self, tool: str) -> AbstractContextManager[None]:
        tracing = current_tracing.get()
        if tracing is None:
            return nullcontext()
        return tracing.upstream_call(tool, protocol=self._protocol, over_stdio=self._over_stdio)

    def _call_failure(self, error: MCPError, this: Sending) -> Exception:
        failure = call_failure(error, this, self._launch, self.link, over_stdio=self._over_stdio)
        if isinstance(failure, UpstreamFailed) and failure.error_code == "UPSTREAM_ERROR":
            self.answered += 1
        return failure
