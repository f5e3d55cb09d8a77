"""One of several worker processes, from inside: what it has of its parent, and when it stops."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress

import trio

from trio_tools.transports.http.listening.handed import Handed
from trio_tools.transports.http.listening.listeners import Loads, SharedListener, listener_over
from trio_tools.transports.http.workers.siblings import Siblings, WorkerPlace
from trio_tools.transports.shutdown import Stop


class Worker:
    """What a worker process has of its parent.

    Args:
        place: Which worker it is.

    Attributes:
        siblings: The other workers.
        loads: How many connections each worker has.
        listeners: The listening sockets, which all workers share.
        metrics_listeners: Those at which `/metrics` alone is served.
        handed: The same, if a supervisor opened them; they are closed as `listeners` are.
    """

    def __init__(self, place: WorkerPlace) -> None:
        self.siblings = Siblings(place)
        self.loads = Loads(place.loads, place.index, place.count)
        self.listeners = [SharedListener(number, self.loads) for number in place.listeners]
        metrics = [_socket(number) for number in place.metrics_listeners]
        self.metrics_listeners = [listener_over(each) for each in metrics]
        clients = [each.listening for each in self.listeners]
        self.handed = Handed(clients, metrics) if place.handed else Handed()
        self._parent = os.getppid()
        self._link = trio.SocketStream(trio.socket.from_stdlib_socket(_socket(place.link)))

    def close(self) -> None:
        """Close what is of the parent, except the listening sockets."""
        self.siblings.close()
        self.loads.close()
        self._link.socket.close()

    def hand_on_hangup(self) -> None:
        """Have the parent let all workers read their settings again, this one included."""
        if os.getppid() == self._parent:  # else it is gone, and this process about to end
            os.kill(self._parent, signal.SIGHUP)

    async def follow(self, stop: Stop) -> None:
        """Tell the parent that calls are taken, and answer it; ask for the stop when it is gone."""
        with suppress(trio.BrokenResourceError):
            await self._link.send_all(b"+")
            while await self._link.receive_some():
                await self._link.send_all(b"+")  # the event loop runs
        stop("the parent process is gone")


def _socket(descriptor: int) -> socket.socket:
    found = socket.socket(fileno=descriptor)
    found.set_inheritable(False)
    return found
