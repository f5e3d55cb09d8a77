"""Replies that request a pause, 429 and 503, and the retries after them."""

from __future__ import annotations

import email.utils
import time
from datetime import UTC
from typing import Literal

import trio

from trio_tools.http.wire.client import Answer

THROTTLED = frozenset({429, 503})
"""Status codes that request a pause."""

_LONGEST_PAUSE_SECONDS = 999_999_999


class ThrottledError(Exception):
    """A host answered 429 or 503. The clients handle it and return its reply in the end.

    Attributes:
        answer: The reply.
        pause: Seconds until the end of the pause.
        repeatable: Whether the request may be sent again.
    """

    def __init__(self, answer: Answer, pause: float, *, repeatable: bool = True) -> None:
        super().__init__()
        self.answer = answer
        self.pause = pause
        self.repeatable = repeatable


def seconds_to_retry(error: Exception) -> float | Literal["stop"]:
    """Decide, for a `Retry`, whether a request is sent again.

    The retry itself has no delay, since it waits for the end of the pause, with its slot
    released. It is not retried if there is no time for that pause.
    """
    if not (isinstance(error, ThrottledError) and error.repeatable):
        return "stop"
    until = trio.current_time() + error.pause
    return 0.0 if until < trio.current_effective_deadline() else "stop"


def parse_retry_after(value: bytes) -> float | None:
    """Return the seconds in a Retry-After; None if it cannot be parsed.

    A date in any of the three forms of HTTP is UTC. A number that is too large to be meant is a
    long pause.
    """
    text = value[:100].decode("latin-1").strip()
    if text.isascii() and text.isdigit():
        return float(min(int(text), _LONGEST_PAUSE_SECONDS))
    try:
        date = email.utils.parsedate_to_datetime(text)
        if date.tzinfo is None:  # the form of asctime has no zone
            date = date.replace(tzinfo=UTC)
        seconds = date.timestamp() - time.time()
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
    return min(max(0.0, seconds), float(_LONGEST_PAUSE_SECONDS))
