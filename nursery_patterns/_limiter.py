"""Limiters that delegate to a `trio.CapacityLimiter`, because its class is final."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self, TypeAlias, cast, final

import trio

if TYPE_CHECKING:
    from types import TracebackType


class DelegatingLimiter:
    """A limiter that delegates everything to a `trio.CapacityLimiter`.

    Its `__class__` is `CapacityLimiter`, so `isinstance` checks in other code hold.
    """

    def __init__(self, total_tokens: int) -> None:
        self._limiter = trio.CapacityLimiter(total_tokens)

    @property
    def __class__(self) -> type:  # pyright: ignore[reportIncompatibleMethodOverride]
        return trio.CapacityLimiter

    @property
    def total_tokens(self) -> float:
        """Most holders at once. Assign to change it, at once; 0 pauses."""
        return self._limiter.total_tokens

    @total_tokens.setter
    def total_tokens(self, value: float) -> None:
        self._limiter.total_tokens = value

    @property
    def borrowed_tokens(self) -> int:
        """Holders now."""
        return self._limiter.borrowed_tokens

    @property
    def available_tokens(self) -> float:
        """How many more could hold a token now."""
        return self._limiter.available_tokens

    def statistics(self) -> Any:
        """Return the `trio.CapacityLimiterStatistics` of this instant."""
        return self._limiter.statistics()

    def acquire_nowait(self) -> None:
        """Take a token in the name of the current task, or raise `trio.WouldBlock`."""
        self.acquire_on_behalf_of_nowait(trio.lowlevel.current_task())

    def acquire_on_behalf_of_nowait(self, borrower: object) -> None:
        """Take a token in the name of `borrower`, or raise `trio.WouldBlock`."""
        self._limiter.acquire_on_behalf_of_nowait(borrower)

    async def acquire(self) -> None:
        """Wait for a token in the name of the current task, first come, first served."""
        await self.acquire_on_behalf_of(trio.lowlevel.current_task())

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        """Wait for a token in the name of `borrower`, first come, first served."""
        await self._limiter.acquire_on_behalf_of(borrower)

    def release(self) -> None:
        """Give back the token of the current task."""
        self.release_on_behalf_of(trio.lowlevel.current_task())

    def release_on_behalf_of(self, borrower: object) -> None:
        """Give back the token of `borrower`."""
        self._limiter.release_on_behalf_of(borrower)

    async def __aenter__(self) -> Self:
        await self.acquire()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


@final
class CombinedLimiter(DelegatingLimiter):
    """Two limiters as one: its token is a token of each.

    It gives each client a share of a capacity. With a limiter per client before the shared one, no
    client takes all tokens, and waiting tasks of one client do not delay other clients::

        everybody = trio.CapacityLimiter(10)
        of_client = {client: trio.CapacityLimiter(8) for client in clients}
        limiter = CombinedLimiter(of_client[client], everybody)
        await run_batch(fetch, urls, limiter=limiter)

    A task takes the token of `first`, and holds it while it waits for the token of `second`. Each
    wait is first in, first out. A cancelled wait takes neither token. `total_tokens`,
    `borrowed_tokens` and `statistics` are those of `second`; `available_tokens` is the smaller
    number of both.

    Args:
        first: The narrower one.
        second: The shared one.

    Raises:
        TypeError: One of them is not a limiter.
    """

    def __init__(self, first: AnyLimiter, second: AnyLimiter) -> None:
        for name, limiter in (("first", first), ("second", second)):
            if not isinstance(limiter, trio.CapacityLimiter):
                raise TypeError(
                    f"{name} must be a trio.CapacityLimiter, got {limiter!r}: write "
                    "CombinedLimiter(trio.CapacityLimiter(8), trio.CapacityLimiter(10))"
                )
        self._first = first
        self._limiter = as_limiter(second)

    @property
    def available_tokens(self) -> float:
        """How many more could hold a token now."""
        return min(self._first.available_tokens, self._limiter.available_tokens)

    def acquire_on_behalf_of_nowait(self, borrower: object) -> None:
        """Take a token of each in the name of `borrower`, or raise `trio.WouldBlock`."""
        self._first.acquire_on_behalf_of_nowait(borrower)
        with ExitStack() as undo:
            undo.callback(self._first.release_on_behalf_of, borrower)
            self._limiter.acquire_on_behalf_of_nowait(borrower)
            undo.pop_all()

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        """Wait for a token of each in the name of `borrower`."""
        await self._first.acquire_on_behalf_of(borrower)
        with ExitStack() as undo:
            undo.callback(self._first.release_on_behalf_of, borrower)
            await self._limiter.acquire_on_behalf_of(borrower)
            undo.pop_all()

    def release_on_behalf_of(self, borrower: object) -> None:
        """Give back both tokens of `borrower`."""
        self._limiter.release_on_behalf_of(borrower)
        self._first.release_on_behalf_of(borrower)


AnyLimiter: TypeAlias = trio.CapacityLimiter | DelegatingLimiter
"""What can be a `limiter`."""


def as_limiter(limiter: AnyLimiter) -> trio.CapacityLimiter:
    """Return the limiter itself, typed as `trio.CapacityLimiter`."""
    return cast("trio.CapacityLimiter", limiter)
