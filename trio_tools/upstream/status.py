"""The state of an upstream, its status at an instant, and when it is restarted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from nursery_patterns import Retry

State = Literal["not_started", "starting", "connected", "restarting", "failed"]
"""See the table of the module `upstream`."""


# Back-off before a restart, after connections without an answered call. After this many in a row,
# callers no longer wait.
_POLICY: Final = Retry(attempts=5, initial=0.1, maximum=30.0, jitter=0, budget=None)
_MOST_COUNTED: Final = 100


@dataclass(frozen=True)
class UpstreamStatus:
    """The current status of an upstream.

    Attributes:
        state: See the table of the module `upstream`.
        in_flight: Calls that were made and not answered.
        calls: Calls that ended with any outcome.
        restarts: How often it was restarted after a loss.
        let_go: Cancelled calls whose upstream did not react within a second.
        last_error: The last error; None without any.
        pid: Process id of its program, while it runs.
        tools: Number of its tools that may be used; None before its first start.
        tools_refused: Number of its tools that may not be used.
        tools_left_out: By name, why a listed tool is excluded.
    """

    state: State
    in_flight: int
    calls: int
    restarts: int
    let_go: int
    last_error: str | None
    pid: int | None
    tools: int | None
    tools_refused: int | None
    tools_left_out: dict[str, str]


class Restarts:
    """The restarts of one upstream.

    Attributes:
        count: How often it was restarted after a loss.
    """

    def __init__(self) -> None:
        self.count = 0
        self._fruitless = 0  # connections in a row without an answered call

    def note_end(self, *, answered: bool) -> None:
        """Take note that a connection has ended, and whether any of its calls was answered."""
        self._fruitless = 0 if answered else min(self._fruitless + 1, _MOST_COUNTED)

    def gives_up(self, *, was_ready: bool) -> bool:
        """Return whether callers fail at once, and only a new call starts it again."""
        return self._fruitless >= _POLICY.attempts or (not was_ready and self.count == 0)

    @property
    def delay(self) -> float:
        """Seconds before the next start."""
        return _POLICY.backoff(self._fruitless) if self._fruitless else 0.0

    @property
    def pause(self) -> float:
        """Seconds for which callers fail at once after it has given up, above 0."""
        return max(self.delay, _POLICY.initial)
