"""What a tool works with during one call, and what it answers."""

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
        client_id: Who calls.
        report_progress: Sends (done, total, message) to the caller, if it wants progress.
        timed: Whether the caller may say how long it takes.
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
        """Seconds since the call arrived; time in the waiting line counts for its budget."""
        request = current_request()
        return request.elapsed if request else 0.0

    def background_seconds_for(self, asked: float | None) -> float:
        """Return the time for work in the background.

        Raises:
            InvalidArgument: More than the cap was asked for; the message names it.
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
        """Bound a block by what the caller asked for, within the cap, since the call arrived.

        Raises:
            InvalidArgument: More than the cap was asked for.
            TimedOut: Leaving the block, if it was cut.
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
        """Return where an operation that is a plain function runs."""
        runs = self.state.operations[operation].runs
        assert runs != "async"
        return runs

    @asynccontextmanager
    async def slot(self) -> AsyncGenerator[None]:
        """Hold a place in the limit of this tool, as each item of a batch does."""
        self.waits_for("a slot")
        async with self.limits.limiter:
            self.waits_for(None)
            yield

    def waits_for(self, what: str | None) -> None:
        """Say in the status what this call waits for."""
        request = current_request()
        running = self.state.calls.get(request.request_id) if request else None
        if running is not None:
            running.waits_for = what


@dataclass(frozen=True)
class Answer:
    """What a tool answers when it succeeds.

    Attributes:
        summary: One sentence for people and models; it opens the text of the result.
        data: The result, as JSON values.
        told: The same as a model reads it, complete without `data`; None for `data` as JSON.
        text: What to read at the end, such as how to go on.
        warnings: Sentences to read although the call succeeded.
        pagination: Where the next page starts.
        rate_limit: How much of a rate is left.
        link: The resource that has the same and more; empty for none.
        lean_data: What takes the place of `data`, `summary` and `text` in a lean answer, where
            there is nothing more to say; None for `data` as it is.
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
    """Stand in for the way to a caller that wants no progress."""
    await trio.lowlevel.checkpoint()
