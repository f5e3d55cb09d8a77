"""A rate limit whose waiters sleep exactly until their tokens are due.

Two parts. `_Refill` decides: plain arithmetic, told the time, that says when a number of tokens is
due. `TokenBucket` waits: a first-come-first-served line in which only the head has an alarm set.
Serving the head, losing it to a cancel, or changing the rate sets the alarm of whoever is head
then; so nobody ever wakes up in vain, and no background task refills anything.
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

    Due instants are computed from an anchor, never added up step by step, so no rounding gathers:
    with rate 10 the hundredth token is due at exactly `anchor + 100 / 10`. And "is it due yet"
    compares with that same instant, so a waiter that slept until then is always served.
    """

    def __init__(self, rate: float, capacity: int) -> None:
        self.rate = rate
        self.capacity = capacity
        # At `_anchor` the bucket held `_held` tokens, and `_taken` have been taken since; at a
        # later instant it holds what `tokens` computes.
        # Invariant: 0 <= _held <= capacity, and no take came after an overflow since `_anchor`.
        # A new bucket has been full for ever, so it needs no clock before its first use.
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
            # It has been full for a while, and what overflowed is gone.
            self._anchor, self._held, self._taken = now, self.capacity, 0
        self._taken += tokens
        return True

    @property
    def used(self) -> bool:
        """Whether any token has been taken, so that the time matters."""
        return self._anchor > -math.inf

    def retune(self, rate: float, now: float) -> None:
        """Go on with another rate; what accrued up to now stays."""
        self._anchor, self._held, self._taken = now, self.tokens(now), 0
        self.rate = rate

    def move(self, then: float, now: float) -> None:
        """Go on with another clock, on which it is `now` while it was `then` on the old one."""
        self._anchor, self._held, self._taken = now, self.tokens(then), 0


@final
@dataclass(slots=True, eq=False)
class _Waiter:
    tokens: int
    alarm: trio.CancelScope = field(default_factory=trio.CancelScope)  # its deadline wakes


@dataclass(frozen=True, slots=True)
class TokenBucketStatistics:
    """A `TokenBucket` at one instant.

    Attributes:
        rate: Tokens added per second.
        capacity: Most tokens the bucket holds.
        tokens: Tokens in it now, between 0 and `capacity`.
        waiting: Tasks in the line.
    """

    rate: float
    capacity: int
    tokens: float
    waiting: int


@final
class TokenBucket:
    """At most `rate` tokens per second over time, and at most `capacity` at once.

    The bucket starts full. In any span of t seconds at most `capacity + rate * t` tokens are
    handed out. Waiters are served strictly first come, first served: a big request at the head is
    not overtaken by small ones behind it. The clock is `trio.current_time()`.

    A bucket of capacity 1 forgives no lateness: each token counts from when its predecessor was
    really taken, so a busy event loop makes the rate a little lower, never higher. From capacity 2
    on, lateness is made up for.

    It may be made before `trio.run`, and serves one run at a time. In a later run it goes on with
    the tokens that it had when it was used last.

    The algorithm is the token bucket in its virtual-scheduling form: the conformance test of the
    Generic Cell Rate Algorithm (ITU-T I.371), with "not conforming" answered by waiting.

    Args:
        rate: Tokens per second, above 0 and finite.
        capacity: Most tokens that can be saved up, the burst; a whole number of at least 1.

    Raises:
        TypeError: An argument is no number.
        ValueError: An argument is out of its bounds.
    """

    def __init__(self, rate: float, capacity: int) -> None:
        self._refill = _Refill(
            check_rate("rate", rate, call=_CALL),
            check_count("capacity", capacity, call=_CALL),
        )
        # In order of arrival. Invariant: the head's alarm is set to when its tokens are due, and
        # no other alarm is set at all.
        self._line: OrderedDict[_Waiter, None] = OrderedDict()
        # Each run has a clock of its own, of which only differences mean anything.
        self._clock: trio.abc.Clock | None = None
        self._last_used = 0.0  # on that clock

    def __repr__(self) -> str:
        return (
            f"<TokenBucket rate={self.rate:g}/s capacity={self.capacity} waiting={len(self._line)}>"
        )

    @property
    def capacity(self) -> int:
        """Most tokens the bucket holds, which is also the most that one call can ask for."""
        return self._refill.capacity

    @property
    def rate(self) -> float:
        """Tokens per second. Assign to retune: at once, for those who wait already too.

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
        self._set_alarm()

    async def acquire(self, tokens: int = 1) -> float:
        """Take `tokens`, waiting for them if need be, after all who came before.

        Cancelled while it waits, it takes nothing and delays no one: those behind it move up at
        that moment. A checkpoint, also when nothing has to be waited for.

        Args:
            tokens: A whole number, from 1 to `capacity`.

        Returns:
            Seconds waited; 0.0 if the tokens were there.

        Raises:
            TypeError: `tokens` is no whole number.
            ValueError: `tokens` is below 1, or more than the bucket can ever hold.
        """
        self._check(tokens)
        arrived = self._now()
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._take_if_first(tokens):
            await trio.lowlevel.cancel_shielded_checkpoint()
            return 0.0
        await self._stand_in_line(tokens)
        return trio.current_time() - arrived

    def acquire_nowait(self, tokens: int = 1) -> None:
        """Take `tokens` now, without overtaking anyone who waits.

        Args:
            tokens: A whole number, from 1 to `capacity`.

        Raises:
            trio.WouldBlock: The tokens are not there, or others wait for theirs.
            TypeError: `tokens` is no whole number.
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
            waiting=len(self._line),
        )

    def _take_if_first(self, tokens: int) -> bool:
        now = self._now()
        return not self._line and self._refill.take(tokens, now)

    def _now(self) -> float:
        """Return the time of the run. The first use in another run moves the bucket there."""
        clock = trio.lowlevel.current_clock()
        now = clock.current_time()
        if clock is not self._clock:
            if self._line:
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

    async def _stand_in_line(self, tokens: int) -> None:
        waiter = _Waiter(tokens)
        self._line[waiter] = None
        try:
            served = False
            while not served:  # once, unless the rate is lowered after the alarm has gone off
                waiter.alarm = trio.CancelScope()
                self._set_alarm()
                with waiter.alarm:
                    await trio.sleep_forever()
                served = self._refill.take(tokens, trio.current_time())
        finally:
            del self._line[waiter]
            self._set_alarm()

    def _set_alarm(self) -> None:
        head = next(iter(self._line), None)
        if head is not None:
            head.alarm.deadline = self._refill.due(head.tokens)

    def _check(self, tokens: int) -> None:
        check_count("tokens", tokens, call="await bucket.acquire(1)")
        if tokens > self.capacity:
            raise ValueError(
                f"tokens must be at most the capacity {self.capacity}, got {tokens}, which the "
                "bucket can never hold: take them in parts, or write "
                f"TokenBucket(rate={self.rate:g}, capacity={tokens})"
            )
