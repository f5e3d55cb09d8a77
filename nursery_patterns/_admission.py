"""A bounded, fair queue in front of a limiter. When it is full, tasks are refused at once.

One waiting task, the front, waits in the limiter's own queue. The others wait here, in a fair
queue, and become the front in turn. So the limiter stays an ordinary one that other code may use
directly, and a thousand waiters of one key do not delay the single waiter of another.
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

# Assumed seconds of a hold until the first slot has been released.
_UNMEASURED_HOLD = 1.0

# Least retry_after of a refused task: with 0 it would retry in a tight loop.
_LEAST_RETRY_SECONDS = 0.01

# Weight of the newest hold in the mean: TCP's choice for its round-trip times (RFC 6298).
_NEWEST = 1 / 8


@dataclass(frozen=True, slots=True)
class AdmissionStatistics:
    """An `Admission` at one instant.

    Attributes:
        capacity: Most slots at once, the limiter's `total_tokens`; 0 means paused.
        holding: Tasks that hold a slot through this admission.
        waiting: Tasks in the queue.
        max_waiting: Most tasks in the queue.
        admitted: Tasks that got a slot so far.
        refused: Tasks that got `Overloaded` so far.
        mean_hold: Seconds for which recent tasks held a slot; None until one has been released.
    """

    capacity: float
    holding: int
    waiting: int
    max_waiting: int
    admitted: int
    refused: int
    mean_hold: float | None

    @property
    def expected_wait(self) -> float:
        """Seconds that one more task would wait, estimated from recent holds; 0 without any."""
        if self.mean_hold is None or not self.capacity or self.holding < self.capacity:
            return 0.0
        return _expected_wait(self.mean_hold, self.waiting, self.capacity)


@final
class Admission:
    """Take a slot of `limiter`, wait in a queue of at most `max_waiting` tasks, or be refused.

    Usage::

        admission = Admission(trio.CapacityLimiter(10), max_waiting=20)

        async with admission:  # Overloaded, with retry_after, if 20 wait already
            await work()

        async with admission.slot(key=client_id):  # fair between clients
            await work()

        async with admission.slot(key=client_id, weight=3, priority=-1):
            await work()

    **Order.** Lower priorities come first. Between keys, turns follow the weights: in every prefix
    of a run, each key is within one turn of its share. Within a key the order is first in, first
    out. The front of the queue, which the limiter serves next, is not overtaken. Waiting for
    `ageing` seconds counts as one step of priority, so no task starves.

    **Bound.** The slots of the limiter, which may change at any time (0 pauses), and `max_waiting`
    for all keys together. If the queue is full, a new task may displace a waiting one: the latest
    task of a key that has at least two more waiting for its weight, or of a lower priority. The
    displaced task gets `Overloaded` (buffer stealing, McKenney 1990). So no key can fill the queue.

    **Cancellation.** A task that is cancelled while it waits leaves the queue at once. A block that
    fails or is cancelled releases its slot. Waiting has no timeout: use `trio.fail_after`.

    The slot belongs to the current task, as with `async with limiter`, so any number of tasks can
    use one admission at the same time.

    Args:
        limiter: A `trio.CapacityLimiter`, or an object with its methods. Other tasks may acquire it
            directly; they and the front of this queue are served first in, first out.
        max_waiting: Most tasks in the queue (int >= 0). With 0 a task gets a slot at once or is
            refused.
        ageing: Seconds of waiting that count as one step of priority.

    Raises:
        TypeError: `limiter` is not a limiter, or another argument is not a number.
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
        # Waiting tasks. Invariants: if the queue is not empty, there is a front; no task is in two
        # places; `waiting` never grows above `max_waiting`.
        self._front: trio.lowlevel.Task | None = None
        self._queue: FairQueue[trio.lowlevel.Task] = FairQueue(ageing)
        # Keys of the front and of the tasks in the queue.
        self._waiting_keys: dict[trio.lowlevel.Task, Hashable] = {}
        # Since when each slot is held and for which key, oldest first.
        self._holders: dict[trio.lowlevel.Task, tuple[float, Hashable]] = {}
        self._mean_hold: float | None = None
        self._admitted = 0
        self._refused = 0

    def __repr__(self) -> str:
        return (
            f"<Admission {len(self._holders)} holding, {self.waiting}/{self.max_waiting} waiting>"
        )

    @property
    def max_waiting(self) -> int:
        """Most tasks in the queue. Lowering it does not refuse tasks that already wait."""
        return self._max_waiting

    @max_waiting.setter
    def max_waiting(self, value: int) -> None:
        call = "Admission(limiter, max_waiting=20)"
        self._max_waiting = check_count("max_waiting", value, call=call, minimum=0)

    @property
    def waiting(self) -> int:
        """Tasks in the queue, including the front."""
        return len(self._queue) + (self._front is not None)

    @property
    def queued(self) -> int:
        """Tasks in the queue, without the front, which waits in the limiter's own queue."""
        return len(self._queue)

    @property
    def full(self) -> bool:
        """Whether a new task would get no slot at once and the queue is full."""
        return self.waiting >= self.max_waiting and self.limiter.available_tokens <= 0

    def full_for(self, key: Hashable, *, weight: float = 1.0, priority: float = 0) -> bool:
        """Whether a new task of `key` would get `Overloaded` now. O(waiting keys).

        A queue that is full of one key's tasks still accepts a task of another key.
        """
        return self.full and self._queue.displaceable_for(key, weight, priority) is None

    def keys(self) -> set[Hashable]:
        """Return the keys of all tasks that hold a slot or wait. O(tasks)."""
        return {key for _, key in self._holders.values()} | {*self._waiting_keys.values()}

    @asynccontextmanager
    async def slot(
        self, key: Hashable = None, *, weight: float = 1.0, priority: float = 0
    ) -> AsyncGenerator[None]:
        """Hold a slot for `key`, in turn.

        Args:
            key: The admission is fair between keys, such as client ids. `async with admission:`
                uses the key None.
            weight: The key's share: one of weight 3 is served three times as often as one of
                weight 1 while both wait. The latest call's weight holds for its key.
            priority: Lower numbers are served first, as in `queue.PriorityQueue`. A key waits at
                each priority separately.

        Yields:
            When it holds the slot. Leaving the block releases it.

        Raises:
            Overloaded: The queue is full, or another task displaced this one.
            RuntimeError: This task already holds a slot, and would wait for itself.
            TypeError: `key` cannot be hashed, or `weight` or `priority` is not a number.
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
        """Take a slot for the key None.

        Raises:
            Overloaded: The queue is full, or another task displaced this one.
            RuntimeError: This task already holds a slot, and would wait for itself.
        """
        await self._enter(None, 1.0, 0)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Release the slot, also after an exception."""
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
        _check_key(key)  # it fails now, and not only under load
        self._check_not_inside(task)
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._front is None and self._take_free_slot():
            await trio.lowlevel.cancel_shielded_checkpoint()
        else:
            self._make_room(key, weight, priority)
            self._waiting_keys[task] = key
            try:
                await self._wait_for_slot(task, key, weight, priority)
            finally:
                del self._waiting_keys[task]
        self._holders[task] = trio.current_time(), key
        self._admitted += 1

    def _leave(self) -> None:
        self.limiter.release()
        since, _ = self._holders.pop(trio.lowlevel.current_task())
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

    async def _wait_for_slot(
        self, task: trio.lowlevel.Task, key: Hashable, weight: float, priority: float
    ) -> None:
        if self._front is None:
            self._front = task
        else:
            await self._wait_in_queue(task, key, weight, priority)
        try:
            await self.limiter.acquire()
        finally:
            self._call_next_to_front()

    async def _wait_in_queue(
        self, task: trio.lowlevel.Task, key: Hashable, weight: float, priority: float
    ) -> None:
        now = trio.current_time()
        self._queue.push(task, key=key, weight=weight, priority=priority, now=now)

        def abort(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            self._queue.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        if self._front is not task:  # displaced, and not made the front
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
        expected = _expected_wait(self._seconds_per_hold(), self.waiting, max(1, capacity))
        retry_after = max(expected, _LEAST_RETRY_SECONDS)
        return Overloaded(
            f"all {capacity} slots are taken and {self.waiting} of at most {self.max_waiting} "
            f"tasks wait already: try again in {retry_after:.3g} s",
            retry_after=retry_after,
        )

    def _seconds_per_hold(self) -> float:
        mean = _UNMEASURED_HOLD if self._mean_hold is None else self._mean_hold
        # If even the latest holder has held its slot for longer, the mean is out of date.
        if not self._holders:
            return mean
        latest, _ = next(reversed(self._holders.values()))
        return max(mean, trio.current_time() - latest)


def _expected_wait(seconds_per_hold: float, waiting: int, capacity: float) -> float:
    """Return after how many seconds one task more would get a slot."""
    return seconds_per_hold * (waiting + 1) / capacity


def _check_key(key: Hashable) -> None:
    try:
        hash(key)
    except TypeError as error:
        raise TypeError(
            f"key must be hashable, got {key!r} ({error}): write admission.slot(key=client_id) "
            "with a text, a number or a tuple of such"
        ) from error
