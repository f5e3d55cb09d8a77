"""Calls of the function of an item: within its time, and again where a policy says so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio

from nursery_patterns._item_states import ItemStates
from nursery_patterns._retry import Attempts, Retry, RetryBudget
from nursery_patterns._slot import Slot, released

ItemT = TypeVar("ItemT")
ValueT = TypeVar("ValueT")


class OutOfTimeError(Exception):
    """The item's own deadline has passed. Never leaves the worker.

    Attributes:
        error: What the outcome of the item gets as its error.
    """

    def __init__(self, error: trio.TooSlowError) -> None:
        super().__init__()
        self.error = error


def in_time(
    fn: Callable[[ItemT], Awaitable[ValueT]], seconds: float
) -> Callable[[ItemT], Awaitable[ValueT]]:
    """Put each call of the function within a cancel scope, and raise if that was cancelled."""

    async def call(item: ItemT) -> ValueT:
        with trio.move_on_after(seconds):
            return await fn(item)
        raise OutOfTimeError(trio.TooSlowError(f"not done within {seconds:g} s"))

    return call


class ItemRetries(Generic[ItemT, ValueT]):
    """Calls the function of an item until it succeeds, the policy gives up, or its time is up.

    Attributes:
        on_retried: Called for each failure that is retried; None for no call.
    """

    def __init__(
        self, policy: Retry, states: ItemStates[ItemT, ValueT], *, total_timeout: float | None
    ) -> None:
        self._policy = policy
        self._states = states
        self._total_timeout = total_timeout
        self._budget = RetryBudget(policy.budget)
        self.on_retried: Callable[..., None] | None = None

    async def call(
        self, fn: Callable[[ItemT], Awaitable[ValueT]], slot: Slot, index: int, item: ItemT
    ) -> ValueT:
        """Call the function for an item that runs in the slot."""
        if self._states.attempts:
            self._states.attempts.pop(index, None)  # those of an earlier run, which was cancelled
        seconds = self._total_timeout
        if seconds is None:
            return await self._attempt(fn, slot, index, item)
        with trio.move_on_after(seconds):
            return await self._attempt(fn, slot, index, item)
        attempts = self._states.attempts.get(index) or self._first_attempt(index)
        raise OutOfTimeError(attempts.too_slow(seconds))

    async def _attempt(
        self, fn: Callable[[ItemT], Awaitable[ValueT]], slot: Slot, index: int, item: ItemT
    ) -> ValueT:
        """Call the function until it succeeds or the policy gives up; back off without the slot."""
        attempts: Attempts | None = None  # made for the few that fail
        while True:
            try:
                value = await fn(item)
            except Exception as exc:
                error = exc.error if isinstance(exc, OutOfTimeError) else exc
                attempts = attempts or self._first_attempt(index)
                delay = attempts.delay_after(error)
                if delay is None:
                    raise
                if self.on_retried is not None:
                    self.on_retried(index, item, attempt=attempts.count, error=error, delay=delay)
            else:
                self._budget.succeeded()
                return value
            async with released(slot):
                await trio.sleep(delay)
            attempts.count += 1

    def _first_attempt(self, index: int) -> Attempts:
        attempts = self._states.attempts[index] = Attempts(self._policy, self._budget)
        attempts.count = 1
        return attempts
