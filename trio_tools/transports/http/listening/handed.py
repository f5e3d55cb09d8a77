"""Listening sockets that a supervisor opened for this process, as systemd does for socket units.

Their descriptors begin at 3. LISTEN_FDS tells how many there are, LISTEN_PID for which process, and
LISTEN_FDNAMES their names.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator
from typing import Any, Final

from trio_tools.settings import Settings

METRICS_NAME: Final = "metrics"
"""Name (FileDescriptorName=) of a socket at which `/metrics` is served, and nothing of MCP."""

_FIRST_DESCRIPTOR: Final = 3


class Handed:
    """Sockets that take the place of the addresses of the settings; none by default.

    Attributes:
        clients: Those at which MCP is served.
        metrics: Those at which `/metrics` alone is served.
    """

    def __init__(
        self, clients: Iterable[socket.socket] = (), metrics: Iterable[socket.socket] = ()
    ) -> None:
        self.clients = list(clients)
        self.metrics = list(metrics)

    @classmethod
    def of_environment(cls) -> Handed:
        """Return those that the environment tells of, and remove that there, for child processes.

        Raises:
            ValueError: One is not a stream socket that listens, or none is for clients.
        """
        named = list(_named_sockets())
        handed = cls(
            [each for name, each in named if name != METRICS_NAME],
            [each for name, each in named if name == METRICS_NAME],
        )
        if handed.metrics and not handed.clients:
            handed.close()
            raise ValueError(
                f"the supervisor opened a socket named {METRICS_NAME!r} and none for clients: add "
                "a socket unit with another FileDescriptorName="
            )
        return handed

    def close(self) -> None:
        """Close them."""
        for each in (*self.clients, *self.metrics):
            each.close()

    def applied(self, settings: Settings) -> Settings:
        """Return settings that have the addresses of the sockets, by which doors are guarded."""
        update: dict[str, Any] = {}
        if self.clients:
            host, port = _reachable(self.clients)
            update |= {"host": host, "port": port, "socket": None}
        if self.metrics:
            host, port = _reachable(self.metrics)
            update |= {"metrics_host": host, "metrics_port": port}
        if not update:
            return settings
        return settings.model_copy(update={"http": settings.http.model_copy(update=update)})


def _named_sockets() -> Iterator[tuple[str, socket.socket]]:
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdecimal():
        return
    for index in range(int(count)):
        descriptor = _FIRST_DESCRIPTOR + index
        name = names[index] if index < len(names) else ""
        each = _listening(descriptor)
        if each is None:
            raise ValueError(
                f"descriptor {descriptor} ({name}) of the supervisor is not a stream socket that "
                "listens: write ListenStream= in the socket unit"
            )
        yield name, each


def _listening(descriptor: int) -> socket.socket | None:
    try:
        found = socket.socket(fileno=descriptor)
    except OSError:
        return None
    found.set_inheritable(False)
    if found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return found
    found.detach()
    return None


def _reachable(sockets: Iterable[socket.socket]) -> tuple[str, int]:
    """Return the address that most machines reach; a unix socket is of this machine alone."""
    names = [each.getsockname()[:2] for each in sockets if each.family != socket.AF_UNIX]
    outside = [name for name in names if name[0] != "::1" and not name[0].startswith("127.")]
    return (outside or names or [("localhost", 0)])[0]
