"""A tool call from its arrival to its answer, and how long calls and items took."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import trio

from nursery_patterns import Report

_CALLS_REMEMBERED = 200


@dataclass(eq=False)
class RunningCall:
    """One tool call, from its arrival to its answer."""

    request_id: str
    client_id: str
    tool: str
    started: float
    admitted: bool = False
    answered: trio.Event = field(default_factory=trio.Event)
    departed: bool = False
    """The caller left or cancelled, and the tasks of the call have not ended yet."""
    waits_for: str | None = None
    """What the tool waits for, once the call is admitted."""


@dataclass(eq=False)
class Durations:
    """How long the latest calls of one tool took, in seconds."""

    latest: deque[float] = field(default_factory=lambda: deque[float](maxlen=_CALLS_REMEMBERED))

    def add(self, seconds: float) -> None:
        """Record one more call."""
        self.latest.append(seconds)

    def percentile(self, share: float) -> float:
        """Return the duration that this share of the calls did not exceed (nearest rank)."""
        ranked = sorted(self.latest)
        return ranked[max(0, math.ceil(share * len(ranked)) - 1)]


@dataclass(eq=False)
class Pace:
    """How long recent items of one operation took. For advice on batch sizes."""

    seconds: float | None = None

    def add(self, report: Report[Any, Any]) -> None:
        """Record the items of a report. They count as much as all earlier ones together."""
        taken = [o.elapsed for o in report.outcomes if o.succeeded]
        if taken:
            mean = sum(taken) / len(taken)
            self.seconds = mean if self.seconds is None else (self.seconds + mean) / 2
