"""What each client used today, and whether it may use more. Days are those of UTC.

It is kept in memory: a restart begins with nothing used.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from trio_tools.answers.errors import RateLimited
from trio_tools.settings.clients import ClientSettings

MAX_CLIENTS: Final = 10_000
"""Clients whose use is remembered; the one that was away for longest is forgotten."""

_DAY_SECONDS: Final = 86_400


@dataclass
class Used:
    """What one client used on one day.

    Attributes:
        day: Days since 1970, UTC.
        calls: Tool calls that were taken, those that steer others not counted.
        items: Items of batch calls that ended.
    """

    day: int
    calls: int = 0
    items: int = 0


class Usage:
    """The use of one server by its clients.

    Args:
        now: Returns the seconds since 1970.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._used: OrderedDict[str, Used] = OrderedDict()

    def of(self, client_id: str) -> Used:
        """Return what a client has used today."""
        today = int(self._now() // _DAY_SECONDS)
        used = self._used.get(client_id)
        if used is None or used.day != today:
            used = self._used[client_id] = Used(today)
        self._used.move_to_end(client_id)
        if len(self._used) > MAX_CLIENTS:
            self._used.popitem(last=False)
        return used

    def all(self) -> Mapping[str, Used]:
        """Return what was used, by client; some of it on an earlier day."""
        return self._used

    def take_call(self, client_id: str, client: ClientSettings) -> None:
        """Count a call that is about to be taken.

        Raises:
            RateLimited: The client has used what it may use in a day; nothing is counted.
        """
        used = self.of(client_id)
        for name, so_far, most in (
            ("calls", used.calls, client.calls_per_day),
            ("items", used.items, client.items_per_day),
        ):
            if most is not None and so_far >= most:
                seconds = self.seconds_left()
                raise RateLimited(
                    f"This client has used its {most} {name} of today (UTC): call again in "
                    f"{seconds} s, or let the operator raise clients.{client_id}.{name}_per_day.",
                    error_code="QUOTA_EXCEEDED",
                    data={"quota": f"{name}_per_day", "used": so_far, "maximum": most}
                    | {"retry_after_seconds": seconds},
                )
        used.calls += 1

    def add_items(self, client_id: str, count: int) -> None:
        """Count items that ended."""
        self.of(client_id).items += count

    def seconds_left(self) -> int:
        """Return how many seconds there are until midnight, UTC, rounded up."""
        return _DAY_SECONDS - int(self._now() % _DAY_SECONDS)
