"""The figures of several worker processes, as one of them reports them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

Sums = Mapping[str, float]
"""The figures of one worker by name, each a sum over its labels."""

_SUMMED: Final = {
    "connections": "trio_tools_connections",
    "calls_running": "trio_tools_calls_running",
    "calls_waiting": "trio_tools_calls_waiting",
    "items_in_flight": "trio_tools_in_use",
    "items_waiting": "trio_tools_waiting",
}


@dataclass(frozen=True)
class Workers:
    """The workers of one address, as seen by one of them.

    Attributes:
        index: The index of this worker, from 0.
        count: The number of workers.
        ask: Returns the figures of each worker by its index; None for one that does not answer in
            time.
    """

    index: int
    count: int
    ask: Callable[[], Awaitable[Mapping[int, Sums | None]]]

    async def status(self) -> dict[str, Any]:
        """Return which worker answers, and the figures of all workers, as JSON values.

        It waits for the other workers for at most one second.
        """
        found = [figures for figures in (await self.ask()).values() if figures is not None]
        return {
            "answered_by": self.index,
            "count": self.count,
            "answering": len(found),
            "all": {
                field: round(sum(figures.get(name, 0.0) for figures in found))
                for field, name in _SUMMED.items()
            },
        }
