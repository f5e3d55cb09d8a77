"""The limits of one tool or operation: the declared ones, with their current capacity."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from nursery_patterns import Limits
from trio_tools.answers.errors import InvalidArgument
from trio_tools.live.clients import Clients
from trio_tools.settings import ToolLimits


@dataclass(frozen=True)
class LiveLimits:
    """The declared limits of a tool or operation, with the current capacity of its limiter."""

    name: str
    declared: ToolLimits
    limits: Limits = field(repr=False)
    clients: Clients = field(repr=False)

    @property
    def limiter(self) -> trio.CapacityLimiter:
        """The limiter for items of the current client."""
        return self.clients.limiter(self.name, self._whole)

    @property
    def _whole(self) -> trio.CapacityLimiter:
        """The limiter for items of all clients. Made at its first use, as few calls need it."""
        if self.name not in self.limits:
            self.limits.resize(self.name, self.declared.max_concurrency)
        return self.limits[self.name]

    @property
    def max_concurrency(self) -> int:
        """Limit of items in flight over all calls, and the cap for one call."""
        return int(self._whole.total_tokens)

    @property
    def concurrency(self) -> int:
        """Default bound of items in flight for one call."""
        return min(self.declared.concurrency, self.max_concurrency)

    def concurrency_for(self, asked: int | None) -> int:
        """Return the bound for one call.

        Raises:
            InvalidArgument: It is above the cap; the message names the cap.
        """
        if asked is None:
            return max(1, self.concurrency)
        cap = max(1, self.max_concurrency)  # 0 is a pause, during which one may wait
        if asked > cap:
            raise InvalidArgument(
                f"max_concurrent must be at most {cap}, got {asked}: lower it, or leave it out "
                "for the default",
                data={"argument": "max_concurrent", "maximum": cap},
            )
        return asked

    def seconds_for(self, asked: float | None, argument: str = "timeout_seconds") -> float:
        """Return the time for one call, asked for in that argument.

        Raises:
            InvalidArgument: It is above the cap; the message names the cap.
        """
        if asked is None:
            return self.declared.timeout_seconds
        return self._within_cap(argument, asked)

    def item_seconds_for(self, asked: float | None) -> float | None:
        """Return the time for one item of a call; None if it has no bound.

        Raises:
            InvalidArgument: It is above the cap; the message names the cap.
        """
        if asked is None:
            return self.declared.item_timeout_seconds
        return self._within_cap("item_timeout_seconds", asked)

    def _within_cap(self, argument: str, asked: float) -> float:
        cap = self.declared.max_timeout_seconds
        if not asked <= cap:  # false for NaN
            raise InvalidArgument(
                f"{argument} must be at most {cap:g}, got {asked:g}: lower it, or split the "
                "work over several calls",
                data={"argument": argument, "maximum": cap},
            )
        return asked
