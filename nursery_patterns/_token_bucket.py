"""A rate limit whose waiters sleep exactly until their tokens are due.

There are two parts. `_Refill` decides: from the time, it calculates when a number of tokens is due.
`TokenBucket` waits: in its first-in-first-out queue only the head has a deadline. When the head is
served or cancelled, or the rate changes, the deadline of the new head is set. So no waiter wakes up
without need, and no background task refills the bucket.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import final

import trio

from nursery_patterns._arguments import check_count, check_rate

_CALL = "TokenBucket(rate=10, capacity=10)"


@final
class _Refill:
    """How many tokens the bucket holds at a given instant, and when it will hold enough.

    Due instants are computed from an anchor and not added up step by step, so rounding errors do
    not accumulate: with rate 10 the hundredth token is due at exactly `anchor + 100 / 10`. The
    check whether tokens are due uses the same instant, so a waiter that slept until then is always
    served.
    """

    def __init__(self, rate: float, capacity: int) -> None:
        self.rate = rate
        self.capacity = capacity
        # At `_anchor` the bucket held `_held` tokens, and `_taken` have been taken since. `tokens`
        # computes how many it holds at a later instant.
        # Invariant: 0 <= _held <= capacity, and no take came after an overflow since `_anchor`.
        # A new bucket is full since -inf, so it needs no clock before its first use.
        self._anchor = -math.inf
        self._held: float = capacity
        self._taken = 0

    def tokens(self, now: float) -> float:
        """Tokens in the bucket at `now`, between 0 and the capacity."""
        held = self._held + (now - self._anchor) * self.rate - self._taken
        return min(float(self.capacity), max(0.0, held))

    def due(self, tokens: int) -> float:
        """The instant (clock seconds) from which `tokens` can be taken."""
        return self._anchor + (self._taken + tokens - self._held) / self.rate

    def take(self, tokens: int, now: float) -> bool:
        """Take `tokens` if they are due at `now`; all or nothing."""
        if self.due(tokens) > now:
            return False
        if self.due(self.capacity) < now:
            # It was full for some time; tokens that overflowed are lost.
            self._anchor, self._held, self._taken = now, self.capacity, 0
        self._taken += tokens
        return True

    @property
    def used(self) -> bool:
        """Whether any token has been taken, so that the time matters."""
        return self._anchor > -math.inf

    def retune(self, rate: float, now: float) -> None:
        """Continue with another rate. Tokens that accrued until now stay."""
        self._anchor, self._held, self._taken = now, self.tokens(now), 0
        self.rate = rate

    def move(self, then: float, now: float) -> None:
        """Continue with another clock, which shows `now` when the old one showed `then`."""
        self._anchor, self._held, self._taken = now, self.tokens(then), 0


@final
@dataclass(slots=True, eq=False)
class _Waiter:
    tokens: int
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)  # its deadline wakes


@dataclass(frozen=True, slots=True)
class TokenBucketStatistics:
    """A `TokenBucket` at one instant.

    Attributes:
        rate: Tokens added per second.
        capacity: Most tokens the bucket holds.
        tokens: Tokens in it now, between 0 and `capacity`.
        waiting: Tasks in the queue.
    """

    rate: float
    capacity: int
    tokens: float
    waiting: int


@final
class TokenBucket:
    """A rate limit: on average at most `rate` tokens per second, and at most `capacity` at once.

    The bucket starts full. In any span of t seconds it grants at most `capacity + rate * t` tokens.
    Waiters are served strictly first in, first out: small requests do not overtake a large one. The
    clock is `trio.current_time()`.

    With capacity 1, each token counts from when the previous one was actually taken. So a busy
    event loop makes the rate slightly lower, never higher. With capacity 2 or more, the bucket
    catches up.

    It may be made before `trio.run`, and serves one run at a time. In a later run it starts with
    the tokens that it had at its last use.

    The algorithm is the token bucket in its virtual-scheduling form: the conformance test of the
    Generic Cell Rate Algorithm (ITU-T I.371), where a request that does not conform waits.

    Args:
        rate: Tokens per second, above 0 and finite.
        capacity: Most tokens that the bucket holds (the burst); a whole number, at least 1.

    Raises:
        TypeError: An argument is not a number.
        ValueError: An argument is out of its bounds.
    """

    def __init__(self, rate: float, capacity: int) -> None:
        self._refill = _Refill(
            check_rate("rate", rate, call=_CALL),
            check_count("capacity", capacity, call=_CALL),
        )
        # In order of arrival. Invariant: the head's deadline is the instant at which its tokens are
        # due, and no other waiter has a deadline.
        self._queue: OrderedDict[_Waiter, None] = OrderedDict()
        # Each run has its own clock, of which only differences are meaningful.
        self._clock: trio.abc.Clock | None = None
        self._last_used = 0.0  # on that clock

    def __repr__(self) -> str:
        waiting = len(self._queue)
        return f"<TokenBucket rate={self.rate:g}/s capacity={self.capacity} waiting={waiting}>"

    @property
    def capacity(self) -> int:
        """Most tokens that the bucket holds, and the most that one call can take."""
        return self._refill.capacity

    @property
    def rate(self) -> float:
        """Tokens per second. An assignment takes effect at once, also for waiting tasks.

        Tokens that accrued at the old rate stay in the bucket.
        """
        return self._refill.rate

    @rate.setter
    def rate(self, rate: float) -> None:
        rate = check_rate("rate", rate, call="bucket.rate = 10")
        if self._refill.used:
            self._refill.retune(rate, self._now())
        else:
            self._refill.rate = rate
        self._set_deadline()

    async def acquire(self, tokens: int = 1) -> float:
        """Take `tokens`, waiting for them if necessary, after all earlier waiters.

        A cancelled waiter takes no tokens and delays no other waiter: the waiters after it move up
        at once. It is always a checkpoint, also if the tokens are available.

        Args:
            tokens: A whole number, from 1 to `capacity`.

        Returns:
            Seconds waited; 0.0 if the tokens were available.

        Raises:
            TypeError: `tokens` is not a whole number.
            ValueError: `tokens` is below 1, or more than the bucket can ever hold.
        """
        self._check(tokens)
        arrived = self._now()
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._take_if_first(tokens):
            await trio.lowlevel.cancel_shielded_checkpoint()
            return 0.0
        await self._wait_in_queue(tokens)
        return trio.current_time() - arrived

    def acquire_nowait(self, tokens: int = 1) -> None:
        """Take `tokens` now, without overtaking a waiting task.

        Args:
            tokens: A whole number, from 1 to `capacity`.

        Raises:
            trio.WouldBlock: The tokens are not available, or other tasks wait.
            TypeError: `tokens` is not a whole number.
            ValueError: `tokens` is below 1, or more than the bucket can ever hold.
        """
        self._check(tokens)
        if not self._take_if_first(tokens):
            raise trio.WouldBlock

    def statistics(self) -> TokenBucketStatistics:
        """The bucket at this instant."""
        return TokenBucketStatistics(
            rate=self.rate,
            capacity=self.capacity,
            tokens=self._refill.tokens(self._now()),
            waiting=len(self._queue),
        )

    def _take_if_first(self, tokens: int) -> bool:
        now = self._now()
        return not self._queue and self._refill.take(tokens, now)

    def _now(self) -> float:
        """Return the time of the run. The first use in a run moves the bucket to its clock."""
        clock = trio.lowlevel.current_clock()
        now = clock.current_time()
        if clock is not self._clock:
            if self._queue:
                raise RuntimeError(
                    "tasks of another trio run wait for this bucket, and it serves one run at a "
                    f"time: give each run its own, as in TokenBucket(rate={self.rate:g}, "
                    f"capacity={self.capacity})"
                )
            if self._refill.used:
                self._refill.move(self._last_used, now)
            self._clock = clock
        self._last_used = now
        return now

    async def _wait_in_queue(self, tokens: int) -> None:
        waiter = _Waiter(tokens)
        self._queue[waiter] = None
        try:
            served = False
            while not served:  # once, unless the rate is lowered after the deadline
                waiter.scope = trio.CancelScope()
                self._set_deadline()
                with waiter.scope:
                    await trio.sleep_forever()
                served = self._refill.take(tokens, trio.current_time())
        finally:
            del self._queue[waiter]
            self._set_deadline()

    def _set_deadline(self) -> None:
        head = next(iter(self._queue), None)
        if head is not None:
            head.scope.deadline = self._refill.due(head.tokens)

    def _check(self, tokens: int) -> None:
        check_count("tokens", tokens, call="await bucket.acquire(1)")
        if tokens > self.capacity:
            raise ValueError(
                f"tokens must be at most the capacity {self.capacity}, got {tokens}, which the "
                "bucket can never hold: take them in parts, or write "
                f"TokenBucket(rate={self.rate:g}, capacity={tokens})"
            )
