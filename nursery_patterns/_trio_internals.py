"""The private parts of trio that the test kit uses.

Only this module uses them. If trio changes them, a check becomes weaker, but no run becomes wrong.
Each has a test.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import outcome
import trio


def idle_threads() -> set[threading.Thread]:
    """The idle threads in trio's cache. A thread enters it a moment before its call returns."""
    cache = getattr(sys.modules["trio._core._thread_cache"], "THREAD_CACHE", None)
    workers: tuple[Any, ...] = tuple(getattr(cache, "_idle_workers", ()))
    if cache is None or any(not hasattr(worker, "_thread") for worker in workers):
        return {t for t in threading.enumerate() if t.name.startswith("Trio thread ")}
    return {worker._thread for worker in workers}  # noqa: SLF001


@contextmanager
def reproducible_scheduling(seed: int) -> Generator[None]:
    """Make trio run ready tasks in an order that the seed decides, as it does under Hypothesis."""
    module = sys.modules["trio._core._run"]
    shuffle: Any = getattr(module, "_r", None)
    sorts = getattr(module, "_ALLOW_DETERMINISTIC_SCHEDULING", None)
    if shuffle is None or sorts is None:
        yield
        return
    state = shuffle.getstate()
    shuffle.seed(seed)
    setattr(module, "_ALLOW_DETERMINISTIC_SCHEDULING", True)  # noqa: B010 - it is declared Final
    try:
        yield
    finally:
        shuffle.setstate(state)
        setattr(module, "_ALLOW_DETERMINISTIC_SCHEDULING", sorts)  # noqa: B010


def is_told_of_cancel(task: trio.lowlevel.Task, reason: str) -> bool:
    """Whether the task's next step raises a `Cancelled` with that reason."""
    message: object = getattr(task, "_next_send", None)
    error = message.error if isinstance(message, outcome.Error) else None
    return isinstance(error, trio.Cancelled) and error.reason == reason
