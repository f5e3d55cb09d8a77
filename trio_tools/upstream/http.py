"""MCP messages over Streamable HTTP.

The SDK's transport takes a client of httpx2. If a request fails below HTTP, that client returns
an error response instead of raising, so that one failed request is one failed call and does not
end the connection.
"""

from __future__ import annotations

import importlib
import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, cast
from urllib.parse import urlsplit
from urllib.request import getproxies_environment

import httpx2
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.message import SessionMessage

from nursery_patterns import run_in_thread
from trio_tools.answers.errors import UpstreamFailed
from trio_tools.upstream.launch import Endpoint
from trio_tools.upstream.messages import (
    BROKEN_OFF,
    REFUSED,
    UNREACHABLE,
    Closable,
    Link,
    mark_sent,
    without_bad_tools,
    without_progress,
    without_question,
)

if TYPE_CHECKING:
    from mcp.shared._stream_protocols import ReadStream, WriteStream

_CONNECT_SECONDS: Final = 10.0
_WRITE_SECONDS: Final = 30.0
_NOT_FOUND: Final = 404
# Not every Python version has types for the function.
_URLLIB: Any = importlib.import_module("urllib.request")
_LEAST_ERROR: Final = 400
_UNSENT: Final = (httpx2.ConnectError, httpx2.ConnectTimeout)
# Connections beside those of calls: the stream of notices, a cancel, and the list of tools.
_MORE_CONNECTIONS: Final = 5


@asynccontextmanager
async def over_http(
    endpoint: Endpoint, link: Link, *, most: int, calls_at_once: int
) -> AsyncGenerator[tuple[_Reader, _Writer]]:
    """Yield the two ends that an MCP client takes, over HTTP.

    Args:
        endpoint: The server's address.
        link: Receives the state of the transport.
        most: Limit of bytes of one message from it.
        calls_at_once: Bounds the number of sockets.
    """
    limits = httpx2.Limits(max_connections=calls_at_once + _MORE_CONNECTIONS)
    # It reads all certificates of the authorities, which takes a quarter of a second.
    tls = endpoint.url[:6].lower() == "https:"
    verify = await run_in_thread(_tls_context, endpoint.ca_file) if tls else False
    transport = httpx2.AsyncHTTPTransport(
        verify=verify, limits=limits, trust_env=False, proxy=_proxy_for(endpoint)
    )
    client = httpx2.AsyncClient(
        transport=_AnswersForTheServer(transport, most),
        headers=endpoint.headers,
        timeout=httpx2.Timeout(None, connect=_CONNECT_SECONDS, write=_WRITE_SECONDS),
    )
    try:
        async with (
            client,
            streamable_http_client(endpoint.url, http_client=client, max_sse_event_size=most) as (
                read,
                write,
            ),
        ):
            yield _Reader(read, link), _Writer(write)
    finally:
        link.lost.set()


def _tls_context(ca_file: Path | None) -> ssl.SSLContext:
    if ca_file is None:
        return httpx2.create_ssl_context()
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise UpstreamFailed(
            f"its ca_file {ca_file} cannot be read as PEM certificates ({type(error).__name__})",
            error_code="UPSTREAM_NOT_CONFIGURED",
        ) from None


def _proxy_for(endpoint: Endpoint) -> httpx2.Proxy | None:
    """Return the proxy of an endpoint, from its settings or the environment."""
    proxy = endpoint.proxy
    if proxy == "environment":
        parts = urlsplit(endpoint.url)
        found = getproxies_environment()
        if _URLLIB.proxy_bypass_environment(parts.netloc.rpartition("@")[2], found):
            return None
        proxy = found.get(parts.scheme.lower()) or found.get("all")
    if not proxy:
        return None
    try:
        return httpx2.Proxy(proxy)
    except (ValueError, httpx2.InvalidURL):
        raise UpstreamFailed(
            "its proxy is not a URL such as http://user:password@proxy.example:3128",
            error_code="UPSTREAM_NOT_CONFIGURED",
        ) from None


class _Reader(Closable):
    """The SDK's stream of messages, without tools that would make the SDK fail."""

    def __init__(self, inner: ReadStream[SessionMessage | Exception], link: Link) -> None:
        self._inner = inner
        self._link = link

    def __aiter__(self) -> _Reader:
        return self

    async def receive(self) -> SessionMessage | Exception:
        return await anext(self)

    async def __anext__(self) -> SessionMessage | Exception:
        while True:
            try:
                item = await self._inner.__anext__()
            except StopAsyncIteration:
                self._link.lost.set()
                raise
            if isinstance(item, Exception):
                self._link.trouble(f"a message could not be read: {item}")
                return item
            message = without_progress(item, self._link)
            if message is not None:
                return without_question(without_bad_tools(message, self._link.left_out))

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Writer(Closable):
    """The SDK's stream to the server; marks requests as sent."""

    def __init__(self, inner: WriteStream[SessionMessage]) -> None:
        self._inner = inner

    async def send(self, item: SessionMessage) -> None:
        await self._inner.send(item)
        mark_sent(item)

    async def aclose(self) -> None:
        await self._inner.aclose()


class _AnswersForTheServer(httpx2.AsyncBaseTransport):
    """Turns a failure below MCP into the JSON-RPC error of that one request."""

    def __init__(self, inner: httpx2.AsyncHTTPTransport, most: int) -> None:
        self._inner = inner
        self._most = most

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.method != "POST":
            return await self._inner.handle_async_request(request)
        try:
            response = await self._inner.handle_async_request(request)
        except _UNSENT as error:
            return _failure(UNREACHABLE, f"it cannot be reached: {_reason(error)}")
        except httpx2.TransportError as error:
            return _failure(BROKEN_OFF, f"the request broke off: {_reason(error)}")
        kind = response.headers.get("content-type", "").lower()
        is_json = kind.startswith("application/json")
        if response.status_code >= _LEAST_ERROR and not is_json:
            # The SDK sees from it that a session has ended.
            if response.status_code == _NOT_FOUND:
                return response
            await response.aclose()
            told = f"it answered with HTTP status {response.status_code}"
            return _failure(REFUSED, f"{told}: see url and headers of the upstream")
        stream = cast("httpx2.AsyncByteStream", response.stream)
        response.stream = _Bounded(stream, self._most if is_json else None)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


def _reason(error: Exception) -> str:
    """Return in one line why a request failed. The SDK's HTTP library may have it as a cause."""
    told: BaseException | None = error
    while told is not None:
        if "CERTIFICATE_VERIFY_FAILED" in str(told):
            return (
                "its certificate is not trusted (CERTIFICATE_VERIFY_FAILED); set ca_file of the "
                "upstream if a private authority has signed it"
            )
        if str(told):
            return str(told)
        told = told.__cause__ or told.__context__
    return type(error).__name__


def _failure(code: int, message: str) -> httpx2.Response:
    error = {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": message}}
    kind = {"content-type": "application/json"}
    return httpx2.Response(502, headers=kind, content=json.dumps(error).encode())


class _Unreadable(httpx2.StreamError):
    """The SDK treats this type, and no other, as the failure of one request."""


class _Bounded(httpx2.AsyncByteStream):
    """The body of an answer, up to a bound; None if the events have bounds instead.

    An iterator and not a generator: the SDK leaves the loop over it when it has its answer, and
    then closes it.
    """

    def __init__(self, inner: httpx2.AsyncByteStream, most: int | None) -> None:
        self._inner = inner
        self._chunks: AsyncIterator[bytes] | None = None
        self._most = most
        self._size = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._chunks is None:
            self._chunks = aiter(self._inner)
        try:
            chunk = await anext(self._chunks)
        except httpx2.TransportError as error:
            raise _Unreadable(f"its answer broke off: {_reason(error)}") from None
        self._size += len(chunk)
        if self._most is not None and self._size > self._most:
            raise _Unreadable(
                f"its answer is larger than max_reply_bytes ({self._most:,}): ask for less"
            )
        return chunk

    async def aclose(self) -> None:
        close = getattr(self._chunks, "aclose", None)
        if close is not None:  # a generator of httpcore2, which would not be closed otherwise
            await close()
        await self._inner.aclose()
