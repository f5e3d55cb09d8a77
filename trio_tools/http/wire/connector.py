"""Opens connections: resolve, check every address, connect to one of the checked addresses.

The name is resolved once per connection, only here. The connection uses an address that the guard
checked. After that the name is used only for the TLS handshake and the Host header.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address
from typing import Any

import trio

from trio_tools.answers.shortages import is_shortage
from trio_tools.http.wire.address_policy import Guard
from trio_tools.http.wire.connection import Connection, PlainWire, TlsWire
from trio_tools.http.wire.errors import (
    Code,
    FetchError,
    FetchTimedOut,
    LocalShortageError,
    Phase,
    proxy_failed,
)
from trio_tools.http.wire.proxies import Proxies, Proxy
from trio_tools.http.wire.response_parser import ReplyParser, State
from trio_tools.http.wire.urls import Origin
from trio_tools.settings.threads import LimiterOfEachClient

SocketAddress = tuple[Any, ...]
Resolver = Callable[[str, int], Awaitable[Sequence[SocketAddress]]]
"""Takes a host name and a port, returns socket addresses in the order in which to try them."""

_HAPPY_EYEBALLS_DELAY = 0.25  # seconds; RFC 8305, section 5
_MAX_LOOKUPS = 64  # per client


def make_system_resolver() -> Resolver:
    """Return a resolver that uses the operating system, in separate threads.

    At most 64 look-ups of each client run at once, with a separate limiter. So a name server that
    does not answer delays only the look-ups of the client that uses it. A cancelled look-up is
    abandoned: its thread keeps its token and ends when the operating system gives up.
    """
    limiters = LimiterOfEachClient(_MAX_LOOKUPS)

    async def resolve(host: str, port: int) -> Sequence[SocketAddress]:
        try:
            return await trio.to_thread.run_sync(
                _addresses, host, port, abandon_on_cancel=True, limiter=limiters.current()
            )
        except RuntimeError as error:  # no thread can be started
            raise LocalShortageError(str(error)) from error

    return resolve


def _addresses(host: str, port: int) -> list[SocketAddress]:
    """Ask the operating system.

    Raises:
        OSError: With the number of a shortage if there was one. Without descriptors the system can
            read neither its files nor ask a name server, and says that there is no such name.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno == socket.EAI_MEMORY:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from error
        socket.socket(type=socket.SOCK_DGRAM).close()  # fails if it was for want of a descriptor
        raise
    return [entry[4] for entry in found]


class Connector:
    """Opens connections.

    Args:
        guard: Checks every address before any of them is connected to.
        resolver: Resolves names to addresses.
        ssl_context: Returns the TLS settings when the first https origin is connected to.
        max_head_bytes: Limit for the parsers of the connections.
        proxies: The proxies; None for none.
    """

    def __init__(
        self,
        guard: Guard,
        resolver: Resolver,
        ssl_context: Callable[[], ssl.SSLContext],
        max_head_bytes: int,
        proxies: Proxies | None = None,
    ) -> None:
        self._proxies = proxies
        self._guard = guard
        self._resolver = resolver
        self._ssl_context = functools.cache(ssl_context)
        self._max_head_bytes = max_head_bytes

    async def connect(self, origin: Origin, seconds: float | None) -> Connection:
        """Open a connection to `origin` within `seconds` (None: no bound).

        All addresses of the name are tried in order, a new one a quarter of a second after the
        last (RFC 8305, "happy eyeballs"); the first that succeeds is used. A cancel closes all
        sockets.

        Raises:
            FetchError: `DNS_FAILED`, `CONNECT_FAILED`, `TLS_FAILED`, `LOCAL_SHORTAGE`.
            FetchRefused: `BLOCKED_ADDRESS` if any of the addresses is not allowed.
            FetchTimedOut: The timeout expired.
        """
        with trio.move_on_after(float("inf") if seconds is None else seconds):
            return await self._connect(origin)
        raise FetchTimedOut(
            f"No connection to {origin.host} within {seconds:g} s.",
            code=Code.TIMEOUT,
            remediation="Check that the host is up, or allow more time to connect.",
            phase=Phase.CONNECT,
        )

    async def _connect(self, origin: Origin) -> Connection:
        proxy = self._proxies.for_origin(origin) if self._proxies else None
        host = origin.host
        if proxy is None:
            addresses, near = await self._resolve(origin), origin
        else:
            host = await self._judge_behind_proxy(origin)
            addresses, near = await self._look_up(proxy.origin), proxy.origin
        with contextlib.ExitStack() as undo:
            stream, sock = await _first_to_answer(addresses, near)
            undo.callback(sock.close)
            undo.callback(stream.socket.close)
            wire: PlainWire | TlsWire = PlainWire(stream, sock)
            if origin.scheme == "https":
                if proxy is not None:
                    await _open_tunnel(wire, proxy, host, origin.port, self._max_head_bytes)
                wire = await self._shake_hands(wire, origin)
                proxy = None  # inside the tunnel everything is as without a proxy
            undo.pop_all()
        return Connection(origin, wire, sock, ReplyParser(self._max_head_bytes), proxy)

    async def _judge_behind_proxy(self, origin: Origin) -> str:
        """Return the destination for the proxy: the name, or the address that was checked.

        A name that the proxy resolves cannot be checked here; an address is still checked.
        """
        assert self._proxies is not None
        if self._proxies.resolves and not _is_address(origin.host):
            return origin.host
        return str((await self._resolve(origin))[0][0])

    async def _resolve(self, origin: Origin) -> Sequence[SocketAddress]:
        addresses = await self._look_up(origin)
        for address in addresses:
            self._guard.check_address(origin.host, address[0])
        return addresses

    async def _look_up(self, origin: Origin) -> Sequence[SocketAddress]:
        host, port = origin.host, origin.port
        if _is_address(host):
            return [(host, port)]
        try:
            addresses = _families_in_turn(await self._resolver(host, port))
        except (OSError, UnicodeError) as exc:
            if is_shortage(exc):
                raise LocalShortageError(str(getattr(exc, "strerror", exc))) from exc
            raise _dns_failed(host, str(exc)) from exc
        if not addresses:
            raise _dns_failed(host, "it has no address")
        return addresses

    async def _shake_hands(self, plain: PlainWire, origin: Origin) -> TlsWire:
        wire = TlsWire(plain, self._ssl_context(), origin.host.rstrip("."))
        try:
            await wire.shake_hands()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise _tls_failed(origin, exc) from exc
        return wire


async def _open_tunnel(
    wire: PlainWire, proxy: Proxy, host: str, port: int, max_head_bytes: int
) -> None:
    """Request a tunnel of a proxy and wait until it is open."""
    parser = ReplyParser(max_head_bytes)
    reply = parser.expect(head_only=True)
    try:
        await wire.send(proxy.connect_head(host, port))
        while parser.state < State.DONE:
            data = await wire.receive()
            if not data and not parser.begun:
                raise proxy_failed("it closed the connection")
            parser.feed(data)
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
        raise proxy_failed("the connection to it broke") from exc
    if not 200 <= reply.status < 300:  # noqa: PLR2004 - by their names
        reason = reply.reason.decode("latin-1")
        raise proxy_failed(f"it answered {reply.status} {reason} to CONNECT".rstrip())


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def create_ssl_context() -> ssl.SSLContext:
    """Return strict TLS settings: certificates and names are verified.

    Trusts the certificates in `SSL_CERT_FILE` or `SSL_CERT_DIR`, otherwise those of `certifi`.
    """
    import certifi  # noqa: PLC0415 - only the first https connection needs it

    if os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR"):
        context = ssl.create_default_context()
    else:
        context = ssl.create_default_context(cafile=certifi.where())
    context.set_alpn_protocols(["http/1.1"])
    return context


def _families_in_turn(addresses: Sequence[SocketAddress]) -> list[SocketAddress]:
    """Return the addresses with IPv6 and IPv4 alternating, first family first (RFC 8305, 4)."""
    unique = list(dict.fromkeys(addresses))
    first = [address for address in unique if len(address) == len(unique[0])]
    other = [address for address in unique if len(address) != len(unique[0])]
    mixed: list[SocketAddress] = []
    for position in range(max(len(first), len(other))):
        mixed += first[position : position + 1] + other[position : position + 1]
    return mixed


async def _first_to_answer(
    addresses: Sequence[SocketAddress], origin: Origin
) -> tuple[trio.SocketStream, socket.socket]:
    errors: list[OSError] = []
    if len(addresses) == 1:  # the common case needs no nursery
        try:
            return await _open(addresses[0])
        except OSError as exc:
            raise _connect_failed(origin, [exc]) from exc
    # Connected sockets are kept here and closed on every exit, also after a cancel, except for
    # the winner, which is removed at the very end.
    answered: list[tuple[trio.SocketStream, socket.socket]] = []
    try:

        async def attempt(address: SocketAddress, failed: trio.Event) -> None:
            try:
                opened = await _open(address)
            except OSError as exc:
                errors.append(exc)
                failed.set()
                return
            answered.append(opened)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for address in addresses:
                failed = trio.Event()
                nursery.start_soon(attempt, address, failed)
                with trio.move_on_after(_HAPPY_EYEBALLS_DELAY):
                    await failed.wait()
        if not answered:
            raise _connect_failed(origin, errors)
        return answered.pop(0)
    finally:
        for stream, _ in answered:
            stream.socket.close()


async def _open(address: SocketAddress) -> tuple[trio.SocketStream, socket.socket]:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    with contextlib.ExitStack() as undo:
        undo.callback(sock.close)
        wrapped = trio.socket.from_stdlib_socket(sock)
        await wrapped.connect(address)
        stream = trio.SocketStream(wrapped)
        undo.pop_all()
    return stream, sock


def _dns_failed(host: str, reason: str) -> FetchError:
    return FetchError(
        f"The host name {host!r} could not be resolved: {reason}.",
        code=Code.DNS_FAILED,
        remediation="Check the spelling of the host name.",
        phase=Phase.CONNECT,
    )


def _connect_failed(origin: Origin, errors: Sequence[OSError]) -> FetchError:
    # The text of trio's errors repeats the address.
    reasons = "; ".join(
        dict.fromkeys(os.strerror(exc.errno) if exc.errno else str(exc) for exc in errors)
    )
    if all(map(is_shortage, errors)):
        return LocalShortageError(reasons)
    return FetchError(
        f"No connection to {origin.host} port {origin.port}: {reasons}.",
        code=Code.CONNECT_FAILED,
        remediation="Check the host and port; the server may be down.",
        phase=Phase.CONNECT,
    )


def _tls_failed(origin: Origin, cause: BaseException) -> FetchError:
    if isinstance(cause, ssl.SSLCertVerificationError):
        reason = cause.verify_message
    else:
        reason = (isinstance(cause, ssl.SSLError) and cause.reason) or "the peer ended it"
    return FetchError(
        f"No TLS connection to {origin.host} port {origin.port}: {reason}.",
        code=Code.TLS_FAILED,
        remediation="The certificate must be valid for this host and signed by a known authority.",
        phase=Phase.CONNECT,
    )
