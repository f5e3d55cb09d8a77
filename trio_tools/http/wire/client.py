"""Base of `Fetcher` and `ApiClient`: a pool that lives as long as their block, and one exchange.

They use the engine directly. The work of httpx per request (models, merged settings, cookies,
decoders) costs as much as the rest of the request, and neither client needs it.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Hashable
from types import TracebackType
from typing import ClassVar, NamedTuple, ParamSpec, Protocol, Self, TypeVar

import trio

from trio_tools.http.wire.address_policy import Guard
from trio_tools.http.wire.connector import (
    Connector,
    Resolver,
    create_ssl_context,
    make_system_resolver,
)
from trio_tools.http.wire.exchange import Exchange, Timeouts, WireRequest
from trio_tools.http.wire.pool import Pool, PoolLimits
from trio_tools.http.wire.proxies import Proxies
from trio_tools.http.wire.reply import header_fields, read_body
from trio_tools.http.wire.response_parser import Reply
from trio_tools.settings.telemetry.seam import Tracing, current_tracing

_P = ParamSpec("_P")
_T = TypeVar("_T")

Fields = dict[bytes, bytes]
"""Header fields by lower-case name."""


class Share(Protocol):
    """Makes concurrent calls of a function with the same key share one: `single_flight`."""

    def __call__(
        self, fn: Callable[_P, Awaitable[_T]], *, key: Callable[_P, Hashable] | None = None
    ) -> Callable[_P, Awaitable[_T]]:
        """Return `fn`, shared."""
        ...


def unshared(
    fn: Callable[_P, Awaitable[_T]],
    *,
    key: Callable[_P, Hashable] | None = None,  # noqa: ARG001 - as `Share`
) -> Callable[_P, Awaitable[_T]]:
    """Return `fn` as it is, for a client without a nursery."""
    return fn


class Answer(NamedTuple):
    """One reply, read as far as requested."""

    reply: Reply
    fields: Fields
    body: bytes
    """The decoded body; its pieces are no longer in `reply`."""
    truncated: bool
    """Whether the body continues after the part that was read."""


class PooledClient:
    """Base of clients that have connections while their block is open, and no tasks.

    Args:
        guard: The allowed destinations.
        limits: Limits of connections and their lifetime.
        timeouts: Timeouts of the single steps of an exchange.
        max_head_bytes: Limit of bytes of status line and header fields of one reply.
        ssl_context: Returns the TLS settings, called once; by default strict ones.
        resolver: Resolves names to addresses; by default with the operating system.
        proxies: The proxies; None for none.
        share: Makes concurrent look-ups of the same name share one.
    """

    # Whether the server is the operator's, so that the trace of a call is passed to it.
    _is_trusted: ClassVar[bool] = False

    def __init__(
        self,
        guard: Guard,
        limits: PoolLimits,
        *,
        timeouts: Timeouts,
        max_head_bytes: int = 65_536,
        ssl_context: Callable[[], ssl.SSLContext] = create_ssl_context,
        resolver: Resolver | None = None,
        proxies: Proxies | None = None,
        share: Share = unshared,
    ) -> None:
        self._proxies = proxies
        self._share = share
        self._guard = guard
        self._limits = limits
        self._timeouts = timeouts
        self._max_head_bytes = max_head_bytes
        self._ssl_context = ssl_context
        self._resolver = resolver
        self._pool: Pool | None = None
        self._now = trio.current_time

    async def __aenter__(self) -> Self:
        """Prepare the client; nothing is connected yet."""
        resolver = self._share(self._resolver or make_system_resolver())
        connector = Connector(
            self._guard, resolver, self._ssl_context, self._max_head_bytes, self._proxies
        )
        self._pool = Pool(connector, self._limits)
        self._now = trio.lowlevel.current_clock().current_time  # what trio.current_time asks
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close every connection, at once."""
        self.close()

    def close(self) -> None:
        """Close every connection, at once."""
        if self._pool is not None:
            self._pool.close()

    def _ask(
        self, request: WireRequest, wanted: Callable[[Reply, Fields], int]
    ) -> Awaitable[Answer]:
        """Send one request and read its reply, without following redirects or retries.

        With telemetry it is a span. Only the subclass for the operator's own APIs sends the trace
        context, so other servers do not receive it.

        Args:
            request: The request.
            wanted: Returns how many bytes of the body to read, from the head of the reply.

        Raises:
            FetchError: Of any kind; see `failures`.
        """
        tracing = current_tracing.get()
        if tracing is None:
            return self._exchange(request, wanted)
        return self._exchange_in_span(tracing, request, wanted)

    async def _exchange_in_span(
        self, tracing: Tracing, request: WireRequest, wanted: Callable[[Reply, Fields], int]
    ) -> Answer:
        origin = request.origin
        path = None if self._is_trusted else request.head.split(b" ", 2)[1].decode("latin-1")
        with tracing.request(request.method, origin.scheme, origin.host, origin.port, path) as span:
            if self._is_trusted:
                head = request.head.removesuffix(b"\r\n") + span.header_lines() + b"\r\n"
                request = request._replace(head=head)
            answer = await self._exchange(request, wanted)
            span.answered(answer.reply.status)
            return answer

    async def _exchange(
        self, request: WireRequest, wanted: Callable[[Reply, Fields], int]
    ) -> Answer:
        if self._pool is None:
            name = type(self).__name__
            raise RuntimeError(f"a {name} is used inside its block: async with {name}(...) as it")
        exchange = Exchange(self._pool, request, self._timeouts)
        try:
            await exchange.start()
            reply = exchange.reply
            fields = header_fields(reply.headers)
            body, truncated = await read_body(exchange, fields, wanted(reply, fields))
        finally:
            exchange.close()
        return Answer(reply, fields, body, truncated)
