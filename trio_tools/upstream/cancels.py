"""Whether an upstream over stdio reacts to the cancels that it is sent."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import trio
from mcp.client import ClientSession
from mcp.shared.exceptions import MCPError

_CANCEL_SECONDS: Final = 1.0


class Cancels:
    """Cancelled calls whose effect is not known yet.

    An upstream does not answer a cancelled call. So after a cancel it is pinged: one that answers
    has read the cancel, since it reads its messages in order.

    Attributes:
        let_go: Cancelled calls whose upstream did not answer the ping within a second.
    """

    def __init__(self) -> None:
        self.let_go = 0
        self._cancelled = 0
        # At most one ping for all of them is in flight.
        self._to_probe = trio.Event()
        self._settled = trio.Event()
        self._settled.set()

    async def wait_until_settled(self) -> None:
        """Wait until the effect of each cancel is known. No checkpoint if it is."""
        if not self._settled.is_set():
            await self._settled.wait()

    def sent(self) -> None:
        """Record that a cancel was sent to the upstream."""
        self._cancelled += 1
        if self._settled.is_set():
            self._settled = trio.Event()
        self._to_probe.set()

    async def see_through(self, session: ClientSession) -> None:
        """Ping the upstream after cancels, until cancelled."""
        while True:
            await self._to_probe.wait()
            self._to_probe = trio.Event()
            asked, self._cancelled = self._cancelled, 0
            with trio.move_on_after(_CANCEL_SECONDS) as patience, suppress(MCPError):
                await session.send_ping()  # any answer counts, also an error
            if patience.cancelled_caught:
                self.let_go += asked
            if not self._cancelled:
                self._settled.set()
