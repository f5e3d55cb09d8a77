"""Where the server listens: bound before all else, so that a taken port costs nothing."""

from __future__ import annotations

import socket
from typing import NamedTuple

import trio

from trio_tools.settings import HttpSettings


class Address(NamedTuple):
    """Where a server listens. Its text is its URL.

    Attributes:
        host: The address that is bound.
        port: The port that is bound, also when port 0 was asked for.
        url: Where MCP is served.
    """

    host: str
    port: int
    url: str

    def __str__(self) -> str:
        return self.url


async def listen(settings: HttpSettings) -> list[trio.SocketListener]:
    """Bind the address of the settings.

    Raises:
        OSError: It cannot be bound; the message names it.
    """
    try:
        return await trio.open_tcp_listeners(settings.port, host=settings.host)
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot listen on {settings.host}, port {settings.port}: {error.strerror}",
        ) from error


def inherited(descriptor: int) -> trio.SocketListener:
    """Return the listener of a socket that the parent process has bound."""
    listening = socket.socket(fileno=descriptor)
    listening.set_inheritable(False)
    return trio.SocketListener(trio.socket.from_stdlib_socket(listening))


def address_of(listener: trio.SocketListener, settings: HttpSettings) -> Address:
    """Return where a listener listens."""
    host, port = listener.socket.getsockname()[:2]
    scheme = "http" if settings.tls_cert_file is None else "https"
    name = f"[{host}]" if ":" in host else host
    return Address(host, port, f"{scheme}://{name}:{port}{settings.path}")
