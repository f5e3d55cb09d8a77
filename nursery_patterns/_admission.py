"""A bounded, fair waiting line in front of a limiter: overload is an answer, not a longer line.

Of all who wait, one (the front) stands in the limiter's own line; the others stand here, one line
per key, and are called to the front in turn. So the limiter stays an ordinary one that others may
use directly, and one key's thousand waiters are no obstacle to another key's one.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import trio

from nursery_patterns._arguments import check_count
from nursery_patterns._errors import Overloaded

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Hashable
    from types import TracebackType

# Seconds a slot is taken to be held while nobody has given one back yet.
_UNMEASURED_HOLD = 1.0

# What a refused task is told at least: 0 would invite it to ask again without end.
_LEAST_RETRY_SECONDS = 0.01

# Weight of the newest hold in the mean: TCP's choice for its round-trip times (RFC 6298).
_NEWEST = 1 / 8


@dataclass(frozen=True, slots=True)
class AdmissionStatistics:
    """An `Admission` at one instant.

    Attributes:
        capacity: Most slots at once, the limiter's `total_tokens`; 0 means paused.
        holding: Tasks that hold a slot through this admission.
        waiting: Tasks in the line.
        max_waiting: Most tasks in the line.
        admitted: How many ever got a slot.
        refused: How many were ever told `Overloaded`.
        mean_hold: Seconds a slot was held of late; None until one has been given back.
    """

    capacity: float
    holding: int
    waiting: int
    max_waiting: int
    admitted: int
    refused: int
    mean_hold: float | None


@final
class Admission:
    """Take a slot of `limiter`, wait in a line of at most `max_waiting` tasks, or be told to leave.

    Usage::

        admission = Admission(trio.CapacityLimiter(10), max_waiting=20)

        async with admission:  # Overloaded, with retry_after, if 20 wait already
            await work()

        async with admission.slot(key=client_id):  # fair between clients
            await work()

    Order: within a key first come, first served; between keys one each in turn. Bound: the slots
    of the limiter, which may change at any time (0 pauses), and `max_waiting` for all keys
    together. When the line is full, a newcomer whose key has at least two fewer in line than the
    longest takes the place of that key's latest, who is told `Overloaded` instead (buffer
    stealing, McKenney 1990); so no key can fill the line against the others.

    Cancelled while it waits, a task frees its place at once. A failing or cancelled body gives its
    slot back like any other. Waiting is never timed out here: put a `trio.fail_after` around it.

    The slot is borrowed in the name of the current task, as `async with limiter` does, so any
    number of tasks can use one admission at the same time.

    Args:
        limiter: A `trio.CapacityLimiter` or whatever has its methods. Others may acquire it
            directly; the front of this line and they are served first come, first served.
        max_waiting: Most tasks in the line (int >= 0); 0 means a slot at once or never.

    Raises:
        TypeError: `limiter` is no limiter, or `max_waiting` is no whole number.
        ValueError: `max_waiting` is negative.
    """

    def __init__(self, limiter: trio.CapacityLimiter, max_waiting: int) -> None:
        if not hasattr(limiter, "acquire_nowait"):
            raise TypeError(
                f"limiter must be a trio.CapacityLimiter, got {limiter!r}: "
                "write Admission(trio.CapacityLimiter(10), max_waiting=20)"
            )
        self.limiter = limiter
        self.max_waiting = max_waiting
        # Who waits. Invariants: `_lines` has no empty line; if it has any line at all, then there
        # is a front; no task stands in two places; `waiting` never grows past `max_waiting`.
        self._front: trio.lowlevel.Task | None = None
        self._lines: OrderedDict[Hashable, OrderedDict[trio.lowlevel.Task, None]] = OrderedDict()
        # Since when each slot is held, oldest first.
        self._holders: dict[trio.lowlevel.Task, float] = {}
        self._mean_hold: float | None = None
        self._admitted = 0
        self._refused = 0

    def __repr__(self) -> str:
        return (
            f"<Admission {len(self._holders)} holding, {self.waiting}/{self.max_waiting} waiting>"
        )

    @property
    def max_waiting(self) -> int:
        """Most tasks in the line. Lowering it sends nobody away who waits already."""
        return self._max_waiting

    @max_waiting.setter
    def max_waiting(self, value: int) -> None:
        call = "Admission(limiter, max_waiting=20)"
        self._max_waiting = check_count("max_waiting", value, call=call, minimum=0)

    @property
    def waiting(self) -> int:
        """Tasks in the line, the front included."""
        return sum(map(len, self._lines.values())) + (self._front is not None)

    @property
    def full(self) -> bool:
        """Whether a newcomer would neither get a slot at once nor find room in the line."""
        return self.waiting >= self.max_waiting and self.limiter.available_tokens <= 0

    @asynccontextmanager
    async def slot(self, key: Hashable = None) -> AsyncGenerator[None]:
        """Hold a slot in the name of `key`, so that keys are served in turn.

        Args:
            key: Whom to be fair to, such as a client id. `async with admission:` is key None.

        Yields:
            Once the slot is held; leaving the block gives it back.

        Raises:
            Overloaded: The line is full, or this task's place in it went to a key with fewer.
            RuntimeError: This task holds a slot already, and would wait for itself.
        """
        await self._enter(key)
        try:
            yield
        finally:
            self._leave()

    async def __aenter__(self) -> None:
        """Take a slot, in the name of no key in particular.

        Raises:
            Overloaded: The line is full, or this task's place in it went to a key with fewer.
            RuntimeError: This task holds a slot already, and would wait for itself.
        """
        await self._enter(None)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the slot back, whatever happened in the block."""
        self._leave()

    def statistics(self) -> AdmissionStatistics:
        """The admission at this instant."""
        return AdmissionStatistics(
            capacity=self.limiter.total_tokens,
            holding=len(self._holders),
            waiting=self.waiting,
            max_waiting=self.max_waiting,
            admitted=self._admitted,
            refused=self._refused,
            mean_hold=self._mean_hold,
        )

    async def _enter(self, key: Hashable) -> None:
        task = trio.lowlevel.current_task()
        hash(key)  # a key that cannot be one fails now, not first under load
        self._check_not_inside(task)
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._front is None and self._take_free_slot():
            await trio.lowlevel.cancel_shielded_checkpoint()
        else:
            self._make_room(key)
            await self._wait_for_slot(task, key)
        self._holders[task] = trio.current_time()
        self._admitted += 1

    def _leave(self) -> None:
        self.limiter.release()
        since = self._holders.pop(trio.lowlevel.current_task())
        held = trio.current_time() - since
        mean = held if self._mean_hold is None else self._mean_hold
        self._mean_hold = mean + (held - mean) * _NEWEST

    def _check_not_inside(self, task: trio.lowlevel.Task) -> None:
        in_use = self._holders if self._front is None else self.limiter.statistics().borrowers
        if task in in_use:
            raise RuntimeError(
                f"{task.name} holds a slot of this limiter already and would wait for itself: "
                "take one slot around the whole work, or use another limiter for the inner part"
            )

    def _take_free_slot(self) -> bool:
        try:
            self.limiter.acquire_nowait()
        except trio.WouldBlock:
            return False
        return True

    async def _wait_for_slot(self, task: trio.lowlevel.Task, key: Hashable) -> None:
        if self._front is None:
            self._front = task
        else:
            await self._stand_in_line(task, key)
        try:
            await self.limiter.acquire()
        finally:
            self._call_next_to_front()

    async def _stand_in_line(self, task: trio.lowlevel.Task, key: Hashable) -> None:
        line = self._lines.setdefault(key, OrderedDict())
        line[task] = None

        def abort(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            del line[task]
            if not line:
                del self._lines[key]
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        if self._front is not task:  # woken to make room, not to come forward
            raise self._overloaded()

    def _call_next_to_front(self) -> None:
        self._front = None
        if self._lines:
            key, line = next(iter(self._lines.items()))
            self._front, _ = line.popitem(last=False)
            if line:
                self._lines.move_to_end(key)
            else:
                del self._lines[key]
            trio.lowlevel.reschedule(self._front)

    def _make_room(self, key: Hashable) -> None:
        if self.waiting < self.max_waiting:
            return
        own = len(self._lines.get(key, ()))
        longest = max(self._lines.values(), key=len, default=None)
        if longest is None or len(longest) < own + 2:
            raise self._overloaded()
        displaced, _ = longest.popitem()
        trio.lowlevel.reschedule(displaced)

    def _overloaded(self) -> Overloaded:
        self._refused += 1
        capacity = self.limiter.total_tokens
        expected = self._seconds_per_hold() * (self.waiting + 1) / max(1, capacity)
        retry_after = max(expected, _LEAST_RETRY_SECONDS)
        return Overloaded(
            f"all {capacity} slots are taken and {self.waiting} of at most {self.max_waiting} "
            f"tasks wait already: try again in {retry_after:.3g} s",
            retry_after=retry_after,
        )

    def _seconds_per_hold(self) -> float:
        mean = _UNMEASURED_HOLD if self._mean_hold is None else self._mean_hold
        # If even the latest holder has had its slot for longer, the mean is out of date.
        latest = next(reversed(self._holders.values()), None)
        return mean if latest is None else max(mean, trio.current_time() - latest)
