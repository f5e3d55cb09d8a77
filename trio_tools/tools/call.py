"""The context of a tool's call, and its answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from nursery_patterns import current_request
from trio_tools.answers.errors import InvalidArgument, TimedOut
from trio_tools.answers.texts import Told
from trio_tools.live.limits import LiveLimits
from trio_tools.live.state import ServerState
from trio_tools.settings.computing import Place

ReportProgress = Callable[[float, float | None, str | None], Awaitable[None]]


@dataclass(frozen=True)
class Call:
    """One call of a tool.

    Attributes:
        state: The live server.
        tool: Name of the tool.
        client_id: The caller.
        report_progress: Sends (done, total, message) to the caller, if it requested progress.
        timed: Whether the caller may choose its timeout.
    """

    state: ServerState
    tool: str
    client_id: str
    report_progress: ReportProgress
    timed: bool = True

    @property
    def limits(self) -> LiveLimits:
        """The limits of this tool."""
        return self.state.limits_of(self.tool)

    @property
    def waited(self) -> float:
        """Seconds since the call arrived; the time in the queue counts for its budget."""
        request = current_request()
        return request.elapsed if request else 0.0

    def background_seconds_for(self, asked: float | None) -> float:
        """Return the timeout of work in the background.

        Raises:
            InvalidArgument: It is above the cap; the message names the cap.
        """
        cap = self.state.settings.background_timeout_seconds
        if asked is None:
            return cap
        if asked > cap:
            raise InvalidArgument(
                f"background_timeout_seconds must be at most {cap:g}, got {asked:g}: lower it, or "
                "split the work over several calls",
                data={"argument": "background_timeout_seconds", "maximum": cap},
            )
        return asked

    @contextmanager
    def time_limit(self, seconds: float | None) -> Generator[None]:
        """Bound a block by the caller's timeout, within the cap, since the call arrived.

        Raises:
            InvalidArgument: The timeout is above the cap.
            TimedOut: When the block was cancelled at its deadline.
        """
        allowed = self.limits.seconds_for(seconds)
        with trio.move_on_after(max(0.0, allowed - self.waited)) as scope:
            yield
        if scope.cancelled_caught:
            raise self._out_of_time(allowed)

    def _out_of_time(self, allowed: float) -> TimedOut:
        told = f"{self.tool} was not done within {allowed:g} s and was stopped: "
        if not self.timed:
            return TimedOut(f"{told}ask for less", data={"timeout_seconds": allowed})
        most = self.limits.declared.max_timeout_seconds
        return TimedOut(
            f"{told}allow more with timeout_seconds (at most {most:g}), or ask for less",
            data={"argument": "timeout_seconds", "timeout_seconds": allowed, "maximum": most},
        )

    def place_of(self, operation: str) -> Place:
        """Return where an operation with a plain function runs."""
        runs = self.state.operations[operation].runs
        assert runs != "async"
        return runs

    @asynccontextmanager
    async def slot(self) -> AsyncGenerator[None]:
        """Hold a token of the limit of this tool, as each item of a batch does."""
        self.waits_for("a slot")
        async with self.limits.limiter:
            self.waits_for(None)
            yield

    def waits_for(self, what: str | None) -> None:
        """Show in the status what this call waits for."""
        request = current_request()
        running = self.state.calls.get(request.request_id) if request else None
        if running is not None:
            running.waits_for = what


@dataclass(frozen=True)
class Answer:
    """The answer of a successful call.

    Attributes:
        summary: One sentence for people and models; it opens the text of the result.
        data: The result, as JSON values.
        told: The same in a form for models, complete without `data`; None for `data` as JSON.
        text: Text at the end, such as how to continue.
        warnings: Sentences to read although the call succeeded.
        pagination: The position of the next page.
        rate_limit: The rest of a rate limit.
        link: The resource with the same and more; empty for none.
        lean_data: Replaces `data`, `summary` and `text` in a lean answer, if there is nothing
            else to report; None for `data` unchanged.
    """

    summary: str
    data: dict[str, Any]
    told: Sequence[Told] | None = None
    text: str = ""
    warnings: list[str] = field(default_factory=list[str])
    pagination: dict[str, Any] | None = None
    rate_limit: dict[str, Any] | None = None
    link: str = ""
    lean_data: dict[str, Any] | None = None


async def no_progress(*_: object) -> None:
    """Do nothing: the default for a caller that did not request progress."""
    await trio.lowlevel.checkpoint()
