"""Failures that a caller can act on, as exceptions with the message of the answer.

Services and operations raise them. `error_mapping` has the one table that maps other exceptions to
them. An exception that is not in it is a defect, and its text never reaches the client.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable
from enum import StrEnum
from itertools import islice
from typing import Any, ClassVar, Final

MAX_MESSAGE_CHARS: Final = 2_000
"""Limit of characters of a failure's message."""

_SHOWN_CHARS = 80

# Between the problem and the fix.
_SEPARATOR = re.compile(r"[.:;] ")


class ErrorType(StrEnum):
    """The eight kinds of failure, split by what the caller should do next."""

    VALIDATION = "validation"
    """Correct the arguments and call again."""
    TIMEOUT = "timeout"
    """Ask for less or allow more time."""
    OVERLOADED = "overloaded"
    """Wait `retry_after_seconds` and call again, unchanged."""
    RATE_LIMITED = "rate_limited"
    """The upstream or a rate limit requires a pause."""
    NOT_FOUND = "not_found"
    """Nothing has that name: list the names first."""
    FORBIDDEN = "forbidden"
    """The settings of this server do not allow it."""
    UPSTREAM = "upstream"
    """A service that this server uses failed."""
    INTERNAL = "internal"
    """A defect here: quote the request id to the operator."""


class ToolFailure(Exception):  # noqa: N818 - a failure of the call, which the caller can mend
    """A failure with everything that an answer needs.

    Args:
        message: One sentence that says what is wrong and what to do. If it is longer than
            `MAX_MESSAGE_CHARS`, its beginning and its end are kept.
        error_code: Upper-case name for programs; the class has a default.
        remediation: What to do, as an instruction. Empty if the message contains it.
        data: Further fields for the answer, such as bounds or names.

    Attributes:
        error_type: The kind, one for each class.
        rate_limit: The rate limit of the call, for `meta.rate_limit`.
    """

    error_type: ClassVar[ErrorType] = ErrorType.INTERNAL
    default_code: ClassVar[str] = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        error_code: str | None = None,
        remediation: str = "",
        data: dict[str, Any] | None = None,
    ) -> None:
        self.message = _bounded(message)
        super().__init__(self.message)
        self.error_code = error_code or self.default_code
        self.remediation = _bounded(remediation)
        self.data = data or {}
        self.rate_limit: dict[str, Any] | None = None

    @property
    def advice(self) -> str:
        """The fix: the remediation, or else the end of the message, or else the whole message.

        A message states the problem and then the fix, after a colon or in its own sentence.
        """
        if self.remediation:
            return self.remediation
        end = _SEPARATOR.split(self.message)[-1]
        # Not a piece from inside a value, such as a JSON object.
        is_text = end[:1].isalpha() and end.count("'") % 2 == 0 and not {"{", "}"} & set(end)
        return end if is_text else self.message

    @property
    def user_message(self) -> str:
        """The message with its fix, for places that show one text only."""
        if not self.remediation:
            return self.message
        return f"{self.message.rstrip('.')}. {self.remediation}"


def use_one_of(names: Iterable[str]) -> str:
    """Return the fix of an unknown name: a list of the known names."""
    known = ", ".join(names)
    return f"use one of {known}" if known else "the operator has configured none"


class InvalidArgument(ToolFailure):
    """An argument is wrong; the message names it, the bound and the fix."""

    error_type = ErrorType.VALIDATION
    default_code = "INVALID_ARGUMENT"


class TimedOut(ToolFailure):
    """The time given was not enough."""

    error_type = ErrorType.TIMEOUT
    default_code = "TIMEOUT"


class ServerOverloaded(ToolFailure):
    """The queue is full; `data["retry_after_seconds"]` says when to retry."""

    error_type = ErrorType.OVERLOADED
    default_code = "OVERLOADED"


class RateLimited(ToolFailure):
    """The upstream asked for a pause; `data["retry_after_seconds"]` says how long."""

    error_type = ErrorType.RATE_LIMITED
    default_code = "RATE_LIMITED"


class NotFound(ToolFailure):
    """Nothing has that name, id or path."""

    error_type = ErrorType.NOT_FOUND
    default_code = "NOT_FOUND"


class Forbidden(ToolFailure):
    """The settings do not allow it; the message names the setting that would."""

    error_type = ErrorType.FORBIDDEN
    default_code = "FORBIDDEN"


class UpstreamFailed(ToolFailure):
    """A host, database or file behind this server failed."""

    error_type = ErrorType.UPSTREAM
    default_code = "UPSTREAM_FAILED"


def brief_repr(value: object) -> str:
    """Return a caller's value for a message, in at most 80 characters and at little cost.

    Formatting megabytes only to truncate them would block the event loop. So a long text is quoted
    by its beginning and its end, and a long list or object by its first entries.
    """
    text = _brief.repr(value)
    return text if len(text) <= _SHOWN_CHARS else f"{text[: _SHOWN_CHARS - 1]}…"


class _Brief(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = _SHOWN_CHARS

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        # The base class sorts all keys before it takes the first ones.
        return super().repr_dict(dict(islice(x.items(), self.maxdict + 1)), level)


_brief = _Brief()


def _bounded(text: str) -> str:
    if len(text) <= MAX_MESSAGE_CHARS:
        return text
    half = MAX_MESSAGE_CHARS // 2 - 2
    return f"{text[:half]} … {text[-half:]}"
