"""One run of a scenario on a virtual clock, cancelled at a chosen step.

An instrument counts the steps of the scenario's tasks. A step is what a task does from one
checkpoint to the next. So a cancel after the k-th step is a cancel at the k-th checkpoint, and k =
0, 1, 2, ... tries them all.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import final

import outcome
import trio
import trio.testing

from nursery_patterns._await_frames import frames_outside_trio
from nursery_patterns._cluster import keepers_of_cluster
from nursery_patterns._processes import keeper_of_workers
from nursery_patterns._trio_internals import (
    idle_threads,
    is_told_of_cancel,
    reproducible_scheduling,
)

# A run without a step for this many real seconds counts as stuck. Real time, because only threads,
# sockets and processes can wake a run that waits for no deadline.
_STUCK_AFTER = 5.0

_CUT = "this checkpoint's turn to be cancelled"


class _Stuck(BaseException):
    """Thrown into tasks that would never end. Not an `Exception`, so that no code collects it."""


@final
class ScenarioRun(trio.abc.Instrument):
    """Run `scenario` once, and record what the checks need.

    Args:
        scenario: The scenario. It is cancelled after `cut_after` of its steps, or at the instant
            `deadline` of the virtual clock, which starts at 0.
        settle: Called when the scenario has ended: the checks, which may wait.
        max_steps: Most steps of the scenario, and as many again after the cancel.
        seed: Determines the order in which trio runs tasks that are ready at the same time.

    Attributes:
        steps: Steps of the scenario's tasks.
        cut: Whether the scenario was cancelled before it ended.
        where: The task that waited at the cancel, and its line.
        place: File and line at which a task first received the cancel; before that, where it
            waited.
        instants: The instants at which anything happened.
    """

    def __init__(
        self,
        scenario: Callable[[], Awaitable[object]],
        settle: Callable[[], Awaitable[object]],
        *,
        max_steps: int,
        seed: int,
        cut_after: int | None = None,
        deadline: float = math.inf,
    ) -> None:
        self._scenario = scenario
        self._settle = settle
        self._max_steps = max_steps
        self._seed = seed
        self._cut_after = cut_after
        self._scope = trio.CancelScope(deadline=deadline)
        # Tasks of the scenario, and of its checks, that have not ended.
        self._nursery: trio.Nursery | None = None
        self._tasks: set[trio.lowlevel.Task] = set()
        self._over = False  # the scenario has ended; later steps are not counted
        self._idle_since: float | None = None
        self._stuck = ""
        self._swallowed = ""
        self.steps = 0
        self.cut = False
        self.where = "before its first step"
        self.place: tuple[str, int] | None = None
        self.instants: set[float] = set()

    def run(self) -> None:
        """Run it.

        Raises:
            AssertionError: A task swallowed the cancel, would never have ended, or is still
                running.
            BaseException: Any exception of the scenario or of `settle`.
        """
        clock = trio.testing.MockClock(autojump_threshold=0)
        try:
            with reproducible_scheduling(self._seed):
                trio.run(self._main, clock=clock, instruments=[self])
        finally:
            if self._stuck:
                raise AssertionError(self._stuck)

    async def _main(self) -> None:
        remains = _Remains()
        with self._scope:
            if self._cut_after == 0:
                self._cut()
            await self._run_below(self._scenario)
        self._over = True
        self.cut = self.cut or self._scope.cancel_called
        if self._swallowed and not self._scope.cancelled_caught:
            raise AssertionError(self._swallowed)
        await remains.check()
        await self._run_below(self._settle)
        await remains.check()

    async def _run_below(self, function: Callable[[], Awaitable[object]]) -> None:
        """Run a function in its own nursery, so that its tasks are known by their parent."""
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(function)

    def _cut(self) -> None:
        self.cut = True
        self._scope.cancel(reason=_CUT)

    # ------------------------------------------------------------------ callbacks of trio

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        nursery = task.parent_nursery
        if nursery is not None and (nursery is self._nursery or nursery.parent_task in self._tasks):
            self._tasks.add(task)

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        self._tasks.discard(task)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task not in self._tasks:
            return
        if not self._over:
            self.instants.add(trio.current_time())
        if self.steps > 2 * self._max_steps:
            self._stuck = f"{describe(task)} did not end, though it was cancelled"
            with suppress(RuntimeError):  # it may even wait while it is closed
                task.coro.close()
        elif self.cut and not self._swallowed and is_told_of_cancel(task, _CUT):
            self.place = _place_of(task)
            self._swallowed = f"the cancel was swallowed: it was delivered to {describe(task)}"

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._idle_since = None
        if task not in self._tasks:  # nor one that has just ended: it waits nowhere
            return
        self.steps += 1
        if self._over:
            return
        if self.steps == self._cut_after:
            self.where = describe(task)
            self.place = _place_of(task)
            self._cut()
        elif self.steps == self._max_steps:
            self._stuck = f"the scenario did not end within {self._max_steps} checkpoints"
            self._cut()

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - what trio passes
        # With an autojump threshold of 0 trio calls this repeatedly while nothing happens.
        now = time.monotonic()
        if self._idle_since is None:
            self._idle_since = now
        elif now - self._idle_since > _STUCK_AFTER:
            leaves = [task for task in self._tasks if not _has_children(task)]
            waiting = "; ".join(sorted(map(describe, leaves)))
            self._stuck = f"it waits for ever: {waiting}"
            for task in leaves:
                trio.lowlevel.reschedule(task, outcome.Error(_Stuck()))


def describe(task: trio.lowlevel.Task) -> str:
    """Name a task, and the innermost line outside of trio at which it waits."""
    frames = frames_outside_trio(task)
    if not frames:
        return f"task {task.name}"
    frame, line = frames[-1]
    return f"task {task.name} at {frame.f_code.co_filename}:{line} in {frame.f_code.co_qualname}"


def _place_of(task: trio.lowlevel.Task) -> tuple[str, int] | None:
    frames = frames_outside_trio(task)
    return (frames[-1][0].f_code.co_filename, frames[-1][1]) if frames else None


def _all_tasks() -> set[trio.lowlevel.Task]:
    root = trio.lowlevel.current_root_task()
    tasks: set[trio.lowlevel.Task] = set()
    new = [root] if root is not None else []
    while new:
        task = new.pop()
        tasks.add(task)
        for nursery in task.child_nurseries:
            new.extend(nursery.child_tasks)
    return tasks


def _has_children(task: trio.lowlevel.Task) -> bool:
    return any(nursery.child_tasks for nursery in task.child_nurseries)


@final
class _Remains:
    """The state before a run, compared afterwards to find what is left."""

    def __init__(self) -> None:
        self._tasks = _all_tasks()
        self._threads = set(threading.enumerate()) - idle_threads()

    async def check(self) -> None:
        # Worker processes and a cluster stay until the run ends, and so do their owners.
        keeper, thread = keepers_of_cluster()
        expected = {*self._tasks, keeper_of_workers(), keeper}
        if _all_tasks() - expected:
            await trio.testing.wait_all_tasks_blocked()  # trio's own soon end
        tasks = [describe(task) for task in _all_tasks() - expected]
        busy = set(threading.enumerate()) - idle_threads() - self._threads - {thread}
        threads = [f"thread {thread.name}" for thread in busy]
        if tasks or threads:
            raise AssertionError(f"left behind: {'; '.join(sorted(tasks + threads))}")
