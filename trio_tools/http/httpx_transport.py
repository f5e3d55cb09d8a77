"""The engine behind httpx's public interface: `httpx.AsyncClient(transport=TrioTransport())`.

Requests, responses, timeouts and errors are httpx's. Connecting, pooling and parsing are ours.
This is the only module of the package that imports httpx.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from trio_tools.http.wire.address_policy import Guard
from trio_tools.http.wire.connector import (
    Connector,
    Resolver,
    create_ssl_context,
    make_system_resolver,
)
from trio_tools.http.wire.content_encoding import BodyDecoder
from trio_tools.http.wire.errors import Code, FetchError, FetchTimedOut, Phase
from trio_tools.http.wire.exchange import Exchange, Timeouts, WireRequest
from trio_tools.http.wire.pool import Pool, PoolLimits
from trio_tools.http.wire.proxies import Proxies
from trio_tools.http.wire.reply import body_codings, header_fields
from trio_tools.http.wire.request_framing import request_head, whole_body
from trio_tools.http.wire.urls import DEFAULT_PORTS, Origin

_TIMEOUT_FOR: dict[Phase, type[httpx.TransportError]] = {
    Phase.POOL: httpx.PoolTimeout,
    Phase.CONNECT: httpx.ConnectTimeout,
    Phase.WRITE: httpx.WriteTimeout,
    Phase.READ: httpx.ReadTimeout,
}
_ERROR_FOR_CODE: dict[str, type[httpx.TransportError]] = {
    Code.BLOCKED_SCHEME: httpx.UnsupportedProtocol,
    Code.PROTOCOL_ERROR: httpx.RemoteProtocolError,
    Code.TOO_LARGE: httpx.RemoteProtocolError,
    Code.INVALID_REQUEST: httpx.LocalProtocolError,
}
_ERROR_FOR_PHASE: dict[Phase, type[httpx.TransportError]] = {
    Phase.POOL: httpx.ConnectError,
    Phase.CONNECT: httpx.ConnectError,
    Phase.WRITE: httpx.WriteError,
    Phase.REPLY: httpx.RemoteProtocolError,
    Phase.READ: httpx.ReadError,
}


@dataclass(frozen=True, slots=True)
class Caps:
    """Limits of one reply in bytes; None for no bound.

    Attributes:
        head_bytes: Status line and header fields, interim replies included.
        body_bytes: Body as it is sent.
        decoded_bytes: Body after its codings (gzip, deflate, br, zstd) are undone. They are
            undone here, not by httpx: a piece that exceeds the limit never leaves the transport.
    """

    head_bytes: int = 65_536
    body_bytes: int | None = None
    decoded_bytes: int | None = None


class TrioTransport(httpx.AsyncBaseTransport):
    """HTTP/1.1 for httpx on trio, for many concurrent requests. HTTP/2 is not supported.

    `httpx.Timeout` is honoured: connect, read, write, pool. Every failure is one of httpx's own
    exceptions with the request attached and the more detailed `FetchError` as its `__cause__`. A
    cancel closes only the connection of the cancelled request. The codings of a body are undone
    here and not by httpx, so `aiter_raw` returns decoded bytes too.

    Args:
        verify: TLS settings, True for strict ones with the certificates that httpx trusts. A
            client with a transport does not pass on its own `verify`.
        guard: The allowed destinations; by default the public internet at the usual web ports.
            `Guard(allow_private=True, ports=None)` allows everything.
        limits: Limits of connections and their lifetime.
        caps: Limits of one reply.
        resolver: Resolves names to addresses; by default with the operating system.
        proxy: URL of a proxy, or "environment"; see `FetchConfig`.
        proxy_resolves: Whether the proxy resolves names, so that addresses cannot be checked
            here.

    Raises:
        ValueError: `proxy` is not the URL of a proxy.
    """

    def __init__(
        self,
        *,
        verify: ssl.SSLContext | bool = True,
        guard: Guard | None = None,
        limits: PoolLimits | None = None,
        caps: Caps | None = None,
        resolver: Resolver | None = None,
        proxy: str | None = None,
        proxy_resolves: bool = False,
    ) -> None:
        self._guard = guard or Guard()
        self._caps = caps or Caps()
        connector = Connector(
            self._guard,
            resolver or make_system_resolver(),
            lambda: _ssl_context(verify),
            self._caps.head_bytes,
            Proxies(proxy, resolves=proxy_resolves) if proxy else None,
        )
        self._pool = Pool(connector, limits or PoolLimits())

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request and return its reply with the body still to be read.

        Raises:
            httpx.TransportError: The request failed; the subclass shows the phase.
        """
        try:
            wire_request = _wire_request(request)
            self._guard.check_origin(wire_request.origin)
            exchange = Exchange(self._pool, wire_request, _timeouts(request))
            await exchange.start()
        except FetchError as exc:
            raise _as_httpx(exc, request) from exc
        reply = exchange.reply
        codings = body_codings(reply, header_fields(reply.headers))
        if exchange.finished and not reply.body_bytes:
            codings = []  # a reply without a body may have any
        return (_PlainResponse if codings else httpx.Response)(
            reply.status,
            headers=reply.headers,
            stream=_ReplyStream(exchange, request, codings, self._caps),
            extensions={
                "http_version": b"HTTP/" + reply.version.encode("ascii"),
                "reason_phrase": reply.reason,
            },
        )

    async def aclose(self) -> None:
        """Close every connection.

        Requests that wait for their reply fail with `httpx.ReadError`. Requests that wait for a
        connection, that would be sent again on another one, or that are made later fail with
        `httpx.ConnectError`.
        """
        self._pool.close()


class _PlainResponse(httpx.Response):
    """A response whose body is already decoded, although its header fields have the codings."""

    async def aiter_bytes(self, chunk_size: int | None = None) -> AsyncGenerator[bytes]:
        """Yield the decoded body, in pieces of `chunk_size` if that is given."""
        try:
            content = self.content
        except httpx.ResponseNotRead:
            async for piece in self.aiter_raw(chunk_size):
                yield piece
        else:
            size = chunk_size or max(len(content), 1)
            for start in range(0, len(content), size):
                yield content[start : start + size]


class _ReplyStream(httpx.AsyncByteStream):
    """The body of one reply, read on demand.

    An iterator, not a generator: no clean-up is left to the garbage collector when the reader
    stops early.
    """

    def __init__(
        self, exchange: Exchange, request: httpx.Request, codings: list[str], caps: Caps
    ) -> None:
        self._exchange = exchange
        self._request = request
        self._caps = caps
        self._given = 0
        self._decoder: BodyDecoder | None = None
        if codings:
            most = caps.decoded_bytes
            self._decoder = BodyDecoder(codings, None if most is None else most + 1)
        self._decoded: Iterator[bytes] = iter(())
        self._ended = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            piece = await self._next()
        except FetchError as exc:
            raise _as_httpx(exc, self._request) from exc
        if not piece:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        """Release the connection; close it if the body was not read to its end."""
        self._exchange.close()

    async def _next(self) -> bytes:
        """Return the next decoded piece, within the caps; b"" after the last."""
        if self._decoder is None:
            piece = await self._receive()
        else:
            while not (piece := next(self._decoded, b"")) and not self._ended:
                received = await self._receive()
                self._ended = not received
                decoder = self._decoder
                self._decoded = decoder.pieces(received) if received else decoder.finish()
        self._given += len(piece)
        most = self._caps.decoded_bytes
        if most is not None and (self._given > most or (self._decoder and self._decoder.full)):
            raise _too_large("decoded body", most)
        return piece

    async def _receive(self) -> bytes:
        piece = await self._exchange.read()
        most = self._caps.body_bytes
        if most is not None and self._exchange.reply.body_bytes > most:
            raise _too_large("body", most)
        return piece


def _wire_request(request: httpx.Request) -> WireRequest:
    url = request.url
    port = url.port or DEFAULT_PORTS.get(url.scheme, 0)
    head = request_head(request.method, url.raw_path, request.headers.raw)
    try:
        body = whole_body(request.content, head.length)
    except httpx.RequestNotRead:
        body = _pieces_of(request)
    return WireRequest(
        origin=Origin(url.scheme, url.raw_host.decode("ascii").strip("[]"), port),
        method=request.method,
        head=head.data,
        body=body,
        length=head.length,
        last=head.last,
    )


def _pieces_of(request: httpx.Request) -> Any:
    stream = request.stream
    if not isinstance(stream, httpx.AsyncByteStream):
        raise TypeError(
            "a synchronous stream cannot be sent by an async client: pass content=... as bytes or "
            "an async iterator of bytes"
        )
    return stream.__aiter__


def _timeouts(request: httpx.Request) -> Timeouts:
    given: dict[str, float | None] = request.extensions.get("timeout", {})
    return Timeouts(
        connect=given.get("connect"),
        read=given.get("read"),
        write=given.get("write"),
        pool=given.get("pool"),
    )


def _ssl_context(verify: ssl.SSLContext | bool) -> ssl.SSLContext:  # noqa: FBT001 - httpx's name
    if isinstance(verify, ssl.SSLContext):
        return verify
    context = create_ssl_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _as_httpx(exc: FetchError, request: httpx.Request) -> httpx.RequestError:
    if exc.error_code == Code.INVALID_ENCODING:
        return httpx.DecodingError(exc.message, request=request)
    if isinstance(exc, FetchTimedOut):
        kind = _TIMEOUT_FOR[exc.phase]
    else:
        kind = _ERROR_FOR_CODE.get(exc.error_code) or _ERROR_FOR_PHASE[exc.phase]
    return kind(exc.message, request=request)


def _too_large(what: str, limit: int | None) -> FetchError:
    return FetchError(
        f"The {what} of the reply is longer than {limit} bytes.",
        code=Code.TOO_LARGE,
        remediation="Raise the cap of the transport if it must be read.",
    )
