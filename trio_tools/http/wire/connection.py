"""One connection: bytes out, bytes in, closed at once and without waiting.

A connection serves one exchange at a time, so it needs no locks, and it is closed synchronously,
so that no clean-up anywhere in this package has to await. The plain kind talks to the kernel
without the checkpoints of `trio.SocketStream`: sending succeeds at once nearly always, and the
wait for the reply that follows is the checkpoint. That saves a turn of the scheduler per request.
"""

from __future__ import annotations

import socket
import ssl
from typing import Protocol

import trio

from trio_tools.http.wire.errors import Code, FetchError, Phase
from trio_tools.http.wire.proxies import Proxy
from trio_tools.http.wire.response_parser import ReplyParser
from trio_tools.http.wire.urls import Origin

_RECEIVE_BYTES = 65_536

Bytes = bytes | memoryview


class Wire(Protocol):
    """How bytes travel. Errors are those of trio streams and of `OSError`."""

    def send_nowait(self, data: bytes) -> Bytes:
        """Send what the kernel has room for now, and return the rest as `send_rest` takes it."""
        ...

    async def send_rest(self, rest: Bytes) -> None:
        """Send all of what `send_nowait` returned."""
        ...

    async def receive(self) -> bytes:
        """Wait for bytes and return them, b"" for the end. A checkpoint unless they were here."""
        ...

    def holds_bytes(self) -> bool:
        """Whether bytes have come off the socket that `receive` has not given yet."""
        ...

    def close(self) -> None:
        """Close at once and wake the task that waits on it."""
        ...


class PlainWire(Wire):
    """TCP. Takes over `stream`, whose standard socket is `sock`."""

    __slots__ = ("_fd", "_sock", "_stream")

    def __init__(self, stream: trio.SocketStream, sock: socket.socket) -> None:
        self._stream = stream
        self._sock = sock
        self._fd = sock.fileno()

    def send_nowait(self, data: bytes) -> Bytes:
        """Send what the kernel has room for now, and return the rest."""
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            return data
        return b"" if sent == len(data) else memoryview(data)[sent:]

    async def send_rest(self, rest: Bytes) -> None:
        """Send all of what `send_nowait` returned."""
        await self._stream.send_all(rest)

    async def send(self, data: bytes) -> None:
        """Send all of `data`, without a checkpoint if the kernel has room for it."""
        rest = self.send_nowait(data)
        if rest:
            await self.send_rest(rest)

    async def receive(self) -> bytes:
        """Wait for bytes and return them, b"" for the end."""
        if self._fd < 0:
            raise trio.ClosedResourceError("this connection was closed here")
        while True:
            await trio.lowlevel.wait_readable(self._fd)
            try:
                return self._sock.recv(_RECEIVE_BYTES)
            except BlockingIOError:  # the kernel may wake us for nothing
                continue

    def holds_bytes(self) -> bool:
        """Never: what comes off the socket is given at once."""
        return False

    def close(self) -> None:
        """Close at once."""
        self._stream.socket.close()
        self._fd = -1


class TlsWire(Wire):
    """TLS over a plain wire. One task uses it at a time, sending and then receiving.

    That is what makes it short: `trio.SSLStream` serves a sender and a receiver at once, with three
    locks and a checkpoint per step, for half as much CPU again per request.

    It is closed without a farewell (`close_notify`), as HTTP clients do: every reply that counts
    has told its own length. For the same reason an end without a farewell is an end: a reply that
    was cut short shows that itself.
    """

    __slots__ = ("_incoming", "_outgoing", "_plain", "_tls")

    def __init__(self, plain: PlainWire, context: ssl.SSLContext, server_hostname: str) -> None:
        self._plain = plain
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_hostname=server_hostname
        )

    async def shake_hands(self) -> None:
        """Do the handshake, in which the certificate and its name are verified.

        Raises:
            ssl.SSLError: It failed.
            OSError: The connection broke.
        """
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except ssl.SSLError:
                await self._flush()  # the alert that tells the peer why
                raise
            else:
                await self._flush()
                return

    def send_nowait(self, data: bytes) -> Bytes:
        """Encrypt all of `data`, send what the kernel has room for now, and return the rest."""
        self._tls.write(data)
        return self._plain.send_nowait(self._outgoing.read())

    async def send_rest(self, rest: Bytes) -> None:
        """Send all of what `send_nowait` returned."""
        await self._plain.send_rest(rest)

    async def receive(self) -> bytes:
        """Wait for bytes and return them decrypted, b"" for the end."""
        if not self.holds_bytes():
            await self._fill()  # asked first, as there is nearly never anything, and asking raises
        while True:
            try:
                return self._tls.read(_RECEIVE_BYTES)
            except ssl.SSLWantReadError:  # a part of a record, or one that is not for us
                await self._flush()
                await self._fill()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""

    def holds_bytes(self) -> bool:
        """Whether more records, or parts of one, came with those that were read."""
        return bool(self._tls.pending() or self._incoming.pending)

    def close(self) -> None:
        """Close at once."""
        self._plain.close()

    async def _fill(self) -> None:
        data = await self._plain.receive()
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await self._plain.send(self._outgoing.read())


class Connection:
    """A wire to one origin, the parser of its replies, and when it was last of use.

    Attributes:
        origin: Where it leads.
        parser: Where the reply of the current exchange is.
        used: Whether an exchange was completed on it; if so, the peer may have closed it since.
        proxy: What it leads through that reads its requests; None if they go to the origin as they
            are, through a tunnel too.
        idle_since: When it was last put aside, in seconds of `trio.current_time`.
    """

    __slots__ = ("_sock", "_wire", "idle_since", "origin", "parser", "proxy", "used")

    def __init__(
        self,
        origin: Origin,
        wire: Wire,
        sock: socket.socket,
        parser: ReplyParser,
        proxy: Proxy | None = None,
    ) -> None:
        self.origin = origin
        self.parser = parser
        self.proxy = proxy
        self.used = False
        self.idle_since = 0.0
        self._wire = wire
        self._sock = sock

    def send_nowait(self, data: bytes) -> Bytes:
        """Send what the kernel has room for now, nearly always all, and return the rest.

        Raises:
            FetchError: `CONNECTION_LOST`.
        """
        try:
            return self._wire.send_nowait(data)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise self._lost(exc, Phase.WRITE) from exc

    async def send_rest(self, rest: Bytes) -> None:
        """Send all of what `send_nowait` returned.

        Raises:
            FetchError: `CONNECTION_LOST`.
        """
        try:
            await self._wire.send_rest(rest)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise self._lost(exc, Phase.WRITE) from exc

    async def receive(self) -> None:
        """Wait for the next bytes and feed them, or the end of the connection, to `parser`.

        Raises:
            FetchError: `CONNECTION_LOST` if it was reset or ended before a reply had begun;
                `PROTOCOL_ERROR` or `TOO_LARGE` as the parser finds.
        """
        try:
            data = await self._wire.receive()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise self._lost(exc, Phase.READ) from exc
        if not data and not self.parser.begun:
            raise FetchError(
                f"{self.origin.host} closed the connection without a reply.",
                code=Code.CONNECTION_LOST,
                remediation="The server may be restarting or refusing this client; try later.",
                phase=Phase.REPLY,
            )
        self.parser.feed(data)

    def is_stale(self) -> bool:
        """Whether the peer has ended it, or sent unrequested bytes. Never waits."""
        if self._wire.holds_bytes():
            return True
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def close(self) -> None:
        """Close at once. A task that waits on it gets `CONNECTION_LOST`. Closing twice is fine."""
        self._wire.close()

    def _lost(self, exc: Exception, phase: Phase) -> FetchError:
        cause = exc.__cause__ or exc
        reason = "TLS failure" if isinstance(cause, ssl.SSLError) else str(cause) or "it broke"
        return FetchError(
            f"The connection to {self.origin.host} was lost while {phase.value}: {reason}.",
            code=Code.CONNECTION_LOST,
            remediation="The server or the network ended it; trying again may help.",
            phase=phase,
        )
