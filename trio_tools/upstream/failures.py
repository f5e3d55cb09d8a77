"""What a failed call or connection was about, in words for callers and operators."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mcp.shared.exceptions import MCPError
from mcp_types import CONNECTION_CLOSED

from trio_tools.answers.errors import UpstreamFailed
from trio_tools.upstream.launch import Launch
from trio_tools.upstream.messages import (
    BROKEN_OFF,
    INPUT_REQUIRED,
    TOO_LARGE,
    UNREACHABLE,
    Link,
    Sending,
)

_SESSION_ENDED: Final = "Session terminated"
_OUR_ERRORS: Final = {TOO_LARGE: "REPLY_TOO_LARGE", INPUT_REQUIRED: "INPUT_REQUIRED"}
_MOST_CHARS: Final = 500
_MOST_WORDS: Final = 1_000


class ConnectionLost(Exception):  # noqa: N818 - what happened, not what is wrong
    """The connection has ended.

    Attributes:
        sent: Whether the request had been sent, so that it may have taken effect.
    """

    def __init__(self, *, sent: bool) -> None:
        super().__init__(sent)
        self.sent = sent


def call_failure(
    error: MCPError, this: Sending, launch: Launch, link: Link, *, over_stdio: bool
) -> ConnectionLost | UpstreamFailed:
    """Return what a call failed with, for its caller.

    If the upstream cannot be reached any more, `link.lost` is set.

    Args:
        error: From the SDK.
        this: Whether the call had been sent.
        launch: The way to the upstream.
        link: The state of its transport.
        over_stdio: Whether it is a program.
    """
    if error.code == UNREACHABLE or error.message == _SESSION_ENDED:
        link.lost.set()
        return ConnectionLost(sent=False)
    if error.code == BROKEN_OFF:
        return ConnectionLost(sent=this.sent)
    if error.code == CONNECTION_CLOSED and (over_stdio or link.lost.is_set()):
        return ConnectionLost(sent=this.sent)
    code = _OUR_ERRORS.get(error.code, "UPSTREAM_ERROR")
    return UpstreamFailed(launch.redacted(error.message), error_code=code)


def opening_failure(error: Exception, launch: Launch, link: Link) -> UpstreamFailed:
    """Return why a connection could not be opened or held."""
    for leaf in _leaves(error):
        if isinstance(leaf, UpstreamFailed):
            return leaf
    first = next(_leaves(error))
    if not isinstance(first, MCPError):
        words = f"the handshake failed: {type(first).__name__}: {first}"[:_MOST_CHARS]
        return explained(words, launch, link)
    if first.code == CONNECTION_CLOSED:
        return explained("it ended before it was ready", launch, link)
    return explained(f"it refused the handshake: {first.message}", launch, link)


def explained(what: str, launch: Launch, link: Link) -> UpstreamFailed:
    """Return a failure with everything that is known about its cause."""
    status = link.exit_status
    parts = [what if status is None else f"{what} (exit status {status})"]
    words = launch.redacted(link.last_words())
    if words:
        parts.append(f"its last lines on stderr: {words[-_MOST_WORDS:]}")
    if link.last_trouble:
        parts.append(launch.redacted(link.last_trouble))
    return UpstreamFailed("; ".join(parts), error_code="UPSTREAM_NOT_READY")


def _leaves(error: Exception) -> Iterator[Exception]:
    if isinstance(error, ExceptionGroup):
        for member in error.exceptions:  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
            yield from _leaves(member)  # pyright: ignore[reportUnknownArgumentType]
    else:
        yield error
