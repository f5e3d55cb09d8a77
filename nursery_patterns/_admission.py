"""A bounded, fair waiting line in front of a limiter: overload is an answer, not a longer line.

Of all who wait, one (the front) stands in the limiter's own line; the others stand here, in a fair
queue, and are called to the front in turn. So the limiter stays an ordinary one that others may
use directly, and one key's thousand waiters are no obstacle to another key's one.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import trio

from nursery_patterns._arguments import check_count, check_number, check_seconds
from nursery_patterns._errors import Overloaded
from nursery_patterns._fair_queue import FairQueue

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

        async with admission.slot(key=client_id, weight=3, priority=-1):
            await work()

    Order: lower priorities first; between keys by weight, so that each is served its share of
    every prefix of a run to within one; within a key first come, first served. The front of the
    line, which the limiter serves next, is not overtaken. Whoever has waited for `ageing` seconds
    longer counts as one step of priority more urgent, so nobody waits for ever.

    Bound: the slots of the limiter, which may change at any time (0 pauses), and `max_waiting`
    for all keys together. When the line is full, a newcomer takes the place of the latest of a key
    with at least two more in line for its weight, or of a lower priority; that one is told
    `Overloaded` instead (buffer stealing, McKenney 1990). So no key can fill the line against the
    others.

    Cancelled while it waits, a task frees its place at once. A failing or cancelled body gives its
    slot back like any other. Waiting is never timed out here: put a `trio.fail_after` around it.

    The slot is borrowed in the name of the current task, as `async with limiter` does, so any
    number of tasks can use one admission at the same time.

    Args:
        limiter: A `trio.CapacityLimiter` or whatever has its methods. Others may acquire it
            directly; the front of this line and they are served first come, first served.
        max_waiting: Most tasks in the line (int >= 0); 0 means a slot at once or never.
        ageing: Seconds of waiting that count as one step of priority.

    Raises:
        TypeError: `limiter` is no limiter, or another argument is no number.
        ValueError: An argument is out of its bounds.
    """

    def __init__(
        self, limiter: trio.CapacityLimiter, max_waiting: int, *, ageing: float = 10.0
    ) -> None:
        if not hasattr(limiter, "acquire_nowait"):
            raise TypeError(
                f"limiter must be a trio.CapacityLimiter, got {limiter!r}: "
                "write Admission(trio.CapacityLimiter(10), max_waiting=20)"
            )
        self.limiter = limiter
        self.max_waiting = max_waiting
        check_seconds("ageing", ageing, call="Admission(limiter, max_waiting=20, ageing=10)")
        # Who waits. Invariants: if anybody is in the queue, then there is a front; no task stands
        # in two places; `waiting` never grows past `max_waiting`.
        self._front: trio.lowlevel.Task | None = None
        self._queue: FairQueue[trio.lowlevel.Task] = FairQueue(ageing)
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
        return len(self._queue) + (self._front is not None)

    @property
    def queued(self) -> int:
        """Tasks in the line, without the front, which waits in the limiter's own line."""
        return len(self._queue)

    @property
    def full(self) -> bool:
        """Whether a newcomer would neither get a slot at once nor find room in the line."""
        return self.waiting >= self.max_waiting and self.limiter.available_tokens <= 0

    def full_for(self, key: Hashable, *, weight: float = 1.0, priority: float = 0) -> bool:
        """Whether a newcomer of `key` would be told `Overloaded` now. O(keys that wait).

        A line that is full of one key's tasks still takes another key's.
        """
        return self.full and self._queue.displaceable_for(key, weight, priority) is None

    @asynccontextmanager
    async def slot(
        self, key: Hashable = None, *, weight: float = 1.0, priority: float = 0
    ) -> AsyncGenerator[None]:
        """Hold a slot in the name of `key`, in its turn.

        Args:
            key: Whom to be fair to, such as a client id. `async with admission:` is key None.
            weight: The key's share: one of weight 3 is served three times as often as one of
                weight 1 while both wait. The latest call's weight holds for its key.
            priority: Lower numbers are served first, as in `queue.PriorityQueue`. A key waits at
                each priority separately.

        Yields:
            Once the slot is held; leaving the block gives it back.

        Raises:
            Overloaded: The line is full, or this task's place in it went to another one.
            RuntimeError: This task holds a slot already, and would wait for itself.
            TypeError: `key` cannot be hashed, or `weight` or `priority` is no number.
            ValueError: `weight` is not above 0, or one of the two is NaN or infinite.
        """
        check_number(
            "weight", weight, call="admission.slot(key=client_id, weight=2)", positive=True
        )
        check_number("priority", priority, call="admission.slot(key=client_id, priority=1)")
        await self._enter(key, weight, priority)
        try:
            yield
        finally:
            self._leave()

    async def __aenter__(self) -> None:
        """Take a slot, in the name of no key in particular.

        Raises:
            Overloaded: The line is full, or this task's place in it went to another one.
            RuntimeError: This task holds a slot already, and would wait for itself.
        """
        await self._enter(None, 1.0, 0)

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

    async def _enter(self, key: Hashable, weight: float, priority: float) -> None:
        task = trio.lowlevel.current_task()
        _check_key(key)  # it fails now, not first under load
        self._check_not_inside(task)
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._front is None and self._take_free_slot():
            await trio.lowlevel.cancel_shielded_checkpoint()
        else:
            self._make_room(key, weight, priority)
            if self._front is None:
                self._front = task
            else:
                await self._stand_in_line(task, key, weight, priority)
            try:
                await self.limiter.acquire()
            finally:
                self._call_next_to_front()
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

    async def _stand_in_line(
        self, task: trio.lowlevel.Task, key: Hashable, weight: float, priority: float
    ) -> None:
        now = trio.current_time()
        self._queue.push(task, key=key, weight=weight, priority=priority, now=now)

        def abort(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            self._queue.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        if self._front is not task:  # woken to make room, not to come forward
            raise self._overloaded()

    def _call_next_to_front(self) -> None:
        self._front = self._queue.pop(trio.current_time()) if self._queue else None
        if self._front is not None:
            trio.lowlevel.reschedule(self._front)

    def _make_room(self, key: Hashable, weight: float, priority: float) -> None:
        if self.waiting < self.max_waiting:
            return
        displaced = self._queue.displaceable_for(key, weight, priority)
        if displaced is None:
            raise self._overloaded()
        self._queue.remove(displaced)
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


def _check_key(key: Hashable) -> None:
    try:
        hash(key)
    except TypeError as error:
        raise TypeError(
            f"key must be hashable, got {key!r} ({error}): write admission.slot(key=client_id) "
            "with a text, a number or a tuple of such"
        ) from error
