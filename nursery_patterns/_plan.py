"""What a batch runs and by which rules. It outlives each run, and may change during one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, NoReturn, TypeVar

import trio

from nursery_patterns._item_calls import ItemRetries, in_time
from nursery_patterns._item_states import ItemStates
from nursery_patterns._key_limits import KeyLimits
from nursery_patterns._observer import hook
from nursery_patterns._outcomes import Outcome
from nursery_patterns._retry import Retry
from nursery_patterns._token_bucket import TokenBucket
from nursery_patterns._tracebacks import release_frames

ItemT = TypeVar("ItemT")
ValueT = TypeVar("ValueT")


class Plan(Generic[ItemT, ValueT]):
    """The function of a batch, its limits, its item states and its observers.

    Attributes:
        states: The state of each item.
        call: Calls the function of an item, within its `item_timeout`.
        retries: Calls it until it succeeds, where failures are tried again.
        ready: Awaited before a start, if there is a journal that wants it.
        behind: Whether `ready` is to be awaited now; None if it is before each start.
    """

    def __init__(
        self,
        fn: Callable[[ItemT], Awaitable[ValueT]],
        states: ItemStates[ItemT, ValueT],
        *,
        batch_limiter: trio.CapacityLimiter,
        shared_limiter: trio.CapacityLimiter | None,
        item_timeout: float | None,
        total_timeout: float | None,
        retry: Retry | None,
        bucket: TokenBucket | None,
        keys: KeyLimits[ItemT] | None,
        ready: Callable[[], Awaitable[None]] | None,
        behind: Callable[[], bool] | None,
        fail_fast: bool,
        name: str,
    ) -> None:
        self.fn = fn
        self.states = states
        self.batch_limiter = batch_limiter
        self.shared_limiter = shared_limiter
        self.item_timeout = item_timeout
        self.retries: ItemRetries[ItemT, ValueT] | None = None
        if retry is not None:
            self.retries = ItemRetries(retry, states, total_timeout=total_timeout)
        self.bucket = bucket
        self.keys = keys
        self.ready = ready
        self.behind = behind
        self.fail_fast = fail_fast
        self.name = name
        self.raised: list[Exception] = []  # errors of outcomes that left a worker too
        self._observers: tuple[object, ...] = ()
        self.observe()

    @property
    def item_timeout(self) -> float | None:
        """Seconds an item may take. Changing it holds for those that start from then on."""
        return self._item_timeout

    @item_timeout.setter
    def item_timeout(self, seconds: float | None) -> None:
        self._item_timeout = seconds
        # A cancel scope per item costs nearly as much as all other costs, so there is none without
        # a deadline.
        self.call = self.fn if seconds is None else in_time(self.fn, seconds)

    def observe(self, *observers: object) -> None:
        """Add observers, called after those that are there."""
        self._observers += observers
        self.on_started = hook(self._observers, "started")
        self.on_ended = hook(self._observers, "ended")
        self.on_cut = hook(self._observers, "cut")
        self.on_waiting = hook(self._observers, "waiting")
        if self.retries is not None:
            self.retries.on_retried = hook(self._observers, "retried")

    def raise_error_of(self, outcome: Outcome[ItemT, ValueT]) -> NoReturn:
        """Let the error of an outcome leave the run too, which cancels the rest."""
        assert outcome.error is not None
        self.raised.append(outcome.error)
        raise outcome.error

    def settle(self) -> None:
        """After a run: name the items that were cancelled, and let go of the frames of its tasks.

        Raises:
            ExceptionGroup: Observers raised; each was called for every such item.
        """
        for error in self.raised:
            release_frames(error)
        self.raised.clear()
        if self.on_cut is not None:
            errors: list[Exception] = []
            for index, item in self.states.running.items():
                try:
                    self.on_cut(index, item)
                except Exception as error:  # noqa: BLE001 - the others are told first
                    errors.append(error)
            if errors:
                raise ExceptionGroup(f"the observers of {self.name}", errors)
