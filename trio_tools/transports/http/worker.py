"""One of several worker processes, from inside: what it has of its parent, and when it stops."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress

import trio

from trio_tools.transports.http.listeners import Loads, SharedListener
from trio_tools.transports.http.siblings import Siblings, WorkerPlace
from trio_tools.transports.shutdown import Stop


class Worker:
    """What a worker process has of its parent.

    Args:
        place: Which worker it is.

    Attributes:
        siblings: The other workers.
        loads: How many connections each worker has.
        listeners: The listening sockets, which all workers share.
    """

    def __init__(self, place: WorkerPlace) -> None:
        self.siblings = Siblings(place)
        self.loads = Loads(place.loads, place.index, place.count)
        self.listeners = [SharedListener(number, self.loads) for number in place.listeners]
        link = socket.socket(fileno=place.link)
        link.set_inheritable(False)
        self._parent = os.getppid()
        self._link = trio.SocketStream(trio.socket.from_stdlib_socket(link))

    def close(self) -> None:
        """Close what is of the parent, but for the listening sockets."""
        self.siblings.close()
        self.loads.close()
        self._link.socket.close()

    def hand_on_hangup(self) -> None:
        """Have the parent let all workers read their settings again, this one included."""
        if os.getppid() == self._parent:  # else it is gone, and this process about to end
            os.kill(self._parent, signal.SIGHUP)

    async def follow(self, stop: Stop) -> None:
        """Tell the parent that calls are taken, and ask for the stop when the parent is gone."""
        with suppress(trio.BrokenResourceError):
            await self._link.send_all(b"+")
            await self._link.receive_some(1)  # nothing but the end ever comes
        stop("the parent process is gone")
