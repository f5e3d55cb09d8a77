"""Who blocks the event loop? An instrument that times every step of every task.

A trio program is alive only between steps: while one task computes, no other runs, no timeout
fires and no cancel is delivered. A step that takes long is therefore everybody's problem, and this
names its owner.
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
    """One step of a task that kept the event loop from everyone else.

    Attributes:
        task_name: Name of the task, as trio gives it.
        where: `file:line function` in which the task waits next, so the blocking code lies before
            that line and after the wait before it; for a task that ended with this step, the first
            line of its function. Frames inside trio are left out.
        seconds: How long the step took, in real time.
    """

    task_name: str
    where: str
    seconds: float


@final
class StepMonitor(trio.abc.Instrument):
    """Report each step of a task that holds the event loop for longer than `threshold` seconds.

    Usage::

        trio.run(main, instruments=[StepMonitor()])

        with monitor.watching():  # or only here, inside a running loop
            await work()

    It reads real time, not `trio.current_time()`: a clock of the loop, and a virtual one above
    all, does not tell how long the loop stood still. What counts is how long others had to wait,
    so a step that was slow because the machine was busy is reported too.

    A report says where the step ended. The very line that blocked could only be told by a second
    thread that looks in from outside all the time; this costs nothing while nothing blocks.

    One monitor watches one run at a time. If `on_block` raises, trio logs that and takes the
    monitor out; the run goes on.

    Args:
        threshold: Seconds above which a step is reported.
        keep: How many of the latest reports are kept (int >= 1).
        on_block: Called with each report, in the event loop, so it must be quick. By default a
            warning is logged.
        timer: Returns seconds. `time.thread_time` counts only what the step itself computed: then
            neither a busy machine nor a step that waits for a disk is reported.

    Raises:
        TypeError: `threshold` is no number, or `keep` no whole number.
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
        # When the running step began. Infinite for the step in which the monitor is put in, whose
        # beginning it has not seen, so that it never counts as long.
        self._began = math.inf
        self._blocks = 0  # entered and not yet left
        self._latest: deque[BlockedStep] = deque(maxlen=check_count("keep", keep, call=_CALL))
        self._worst: BlockedStep | None = None
        self._count = 0

    @property
    def count(self) -> int:
        """How many steps were too long so far, those no longer kept included."""
        return self._count

    @property
    def worst(self) -> BlockedStep | None:
        """The longest step so far, or None while there is none to report."""
        return self._worst

    @property
    def latest(self) -> tuple[BlockedStep, ...]:
        """The latest reports, at most `keep`, oldest first."""
        return tuple(self._latest)

    @contextlib.contextmanager
    def watching(self) -> Generator[StepMonitor]:
        """Watch the running loop, all its tasks, until the block is left.

        Several tasks may do so at once: it watches until the last of their blocks is left.
        """
        self._began = math.inf
        self._blocks += 1
        trio.lowlevel.add_instrument(self)
        try:
            yield self
        finally:
            self._blocks -= 1
            # Trio has taken it out already if `on_block` raised, and said so in its log.
            with contextlib.suppress(KeyError):
                if not self._blocks:
                    trio.lowlevel.remove_instrument(self)

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002
        """Note the time, as the loop goes on to run tasks; called by trio."""
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
