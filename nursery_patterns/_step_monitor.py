"""An instrument that times every step of every task, to find the code that blocks the event loop.

While one task computes, no other task runs, no timeout fires and no cancel is delivered. This
module names the tasks whose steps take too long.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import trio

from nursery_patterns._arguments import check_count, check_seconds
from nursery_patterns._await_frames import frames_outside_trio

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

_log = logging.getLogger("nursery_patterns.steps")

_CALL = "StepMonitor(threshold=0.1, keep=100)"


@dataclass(frozen=True, slots=True)
class BlockedStep:
    """One step of a task that blocked the event loop.

    Attributes:
        task_name: Name of the task, as trio gives it.
        where: `file:line function` of the next wait of the task. The blocking code is before that
            line and after the previous wait. For a task that ended with this step, the first line
            of its function. Frames inside trio are skipped.
        seconds: How long the step took, in real time.
    """

    task_name: str
    where: str
    seconds: float


@final
class StepMonitor(trio.abc.Instrument):
    """Report each task step that blocks the event loop for longer than `threshold` seconds.

    Usage::

        trio.run(main, instruments=[StepMonitor()])

        with monitor.watching():  # or only here, inside a running loop
            await work()

    It reads real time and not `trio.current_time()`, because a virtual clock stands still while a
    task computes. It measures how long other tasks had to wait, so a step that was slow because the
    machine was busy is reported too.

    A report says where the step ended. Only a second thread that samples the stack could name the
    exact blocking line. This monitor costs almost nothing while no step is too long.

    One monitor watches one run at a time. If `on_block` raises, trio logs the exception and removes
    the monitor, and the run continues.

    Args:
        threshold: Seconds above which a step is reported.
        keep: Number of latest reports that are kept (int >= 1).
        on_block: Called with each report, in the event loop, so it must be quick. By default a
            warning is logged.
        timer: Returns seconds. `time.thread_time` counts only CPU time of the step, so neither a
            busy machine nor a wait for a disk is reported.

    Raises:
        TypeError: `threshold` is not a number, or `keep` is not a whole number.
        ValueError: One of them is out of its bounds.
    """

    def __init__(
        self,
        threshold: float = 0.1,
        *,
        keep: int = 100,
        on_block: Callable[[BlockedStep], object] | None = None,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.threshold: float = check_seconds("threshold", threshold, call=_CALL)
        self._on_block = _warn if on_block is None else on_block
        self._timer = timer
        # When the running step began. Infinite for the step that installs the monitor: its
        # beginning is unknown, so it never counts as long.
        self._began = math.inf
        self._blocks = 0  # entered and not yet left
        self._latest: deque[BlockedStep] = deque(maxlen=check_count("keep", keep, call=_CALL))
        self._worst: BlockedStep | None = None
        self._count = 0

    @property
    def count(self) -> int:
        """The number of steps that were too long so far, including those no longer kept."""
        return self._count

    @property
    def worst(self) -> BlockedStep | None:
        """The longest reported step so far, or None."""
        return self._worst

    @property
    def latest(self) -> tuple[BlockedStep, ...]:
        """The latest reports, at most `keep`, oldest first."""
        return tuple(self._latest)

    @contextlib.contextmanager
    def watching(self) -> Generator[StepMonitor]:
        """Watch all tasks of the running loop until the block is left.

        Several tasks may use it at once; it watches until the last block is left.
        """
        self._began = math.inf
        self._blocks += 1
        trio.lowlevel.add_instrument(self)
        try:
            yield self
        finally:
            self._blocks -= 1
            # If `on_block` raised, trio has already removed the monitor and logged it.
            with contextlib.suppress(KeyError):
                if not self._blocks:
                    trio.lowlevel.remove_instrument(self)

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002
        """Note the time, when the loop continues with tasks; called by trio."""
        self._began = self._timer()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Report the step if it took too long; called by trio."""
        now = self._timer()
        seconds = now - self._began
        if seconds > self.threshold:
            self._report(BlockedStep(task.name, _where(task), seconds))
            now = self._timer()
        self._began = now  # tasks run one right after the other, so here the next step begins

    def _report(self, step: BlockedStep) -> None:
        self._count += 1
        self._latest.append(step)
        if self._worst is None or step.seconds > self._worst.seconds:
            self._worst = step
        self._on_block(step)


def _warn(step: BlockedStep) -> None:
    _log.warning(
        "%s held the event loop for %.3f s, up to %s", step.task_name, step.seconds, step.where
    )


def _where(task: trio.lowlevel.Task) -> str:
    frames = frames_outside_trio(task) or list(task.iter_await_frames())
    if frames:
        frame, line = frames[-1]
        return f"{frame.f_code.co_filename}:{line} {frame.f_code.co_qualname}"
    code = getattr(task.coro, "cr_code", None)  # a task that has ended waits nowhere
    return f"{code.co_filename}:{code.co_firstlineno} {code.co_qualname}" if code else task.name
