"""A progress bar in the terminal for a batch, with rich (extra `progress`)."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, final

try:
    from rich.console import Console, RenderableType
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
except ImportError as _error:
    raise ImportError(
        "nursery_patterns.progress needs rich, which is not installed: pip install rich"
    ) from _error

from nursery_patterns._arguments import check_instance
from nursery_patterns._batch import Batch

if TYPE_CHECKING:
    from rich.progress import TaskID

    from nursery_patterns._batch_progress import BatchProgress


# Seconds from one drawing to the next.
_PERIOD = 0.1


@contextmanager
def progress_bar(
    batch: Batch[Any, Any], *, description: str | None = None, console: Console | None = None
) -> Generator[Progress]:
    """Show the progress of a batch while the block runs it.

    Usage::

        batch = Batch(fetch, urls)
        with progress_bar(batch):
            await batch.run()  # or: async with batch.stream() as outcomes: ...

    It shows the name, a bar, the number of ended items and the total, the number of failed and
    timed-out items, and the time left. While the total is unknown, the bar is indeterminate. A
    thread reads the counts and draws ten times a second, and once more when the block is left. If
    the output is not a terminal, it draws only at the end. Times are real, also on a virtual clock.

    Args:
        batch: The batch, before or while it runs.
        description: The label; the batch's name by default.
        console: The output; standard error by default.

    Yields:
        The `rich.progress.Progress`, for example for `console.print`.

    Raises:
        TypeError: `batch` is not a `Batch`.
    """
    check_instance("batch", batch, Batch, call="with progress_bar(batch): await batch.run()")
    bar = _Bar(batch.progress, description or batch.name, console or Console(stderr=True))
    with bar, _drawing(bar):
        yield bar


@contextmanager
def _drawing(bar: Progress) -> Generator[None]:
    """Draw it repeatedly. (rich has a thread for that too, but does not wait for its end.)"""
    over = threading.Event()

    def draw() -> None:
        while not over.wait(_PERIOD):
            bar.refresh()

    thread = threading.Thread(target=draw, name="progress bar", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@final
class _Bar(Progress):
    """Reads the counts whenever it is drawn."""

    def __init__(self, counts: BatchProgress, description: str, console: Console) -> None:
        self._counts = counts
        self._bar: TaskID | None = None
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[done]}"),
            TextColumn("{task.fields[failed]}", style="red"),
            TimeRemainingColumn(compact=True),
            console=console,
            auto_refresh=False,
            expand=True,
        )
        self._bar = self.add_task(description, total=None, done="", failed="")

    def get_renderables(self) -> Iterable[RenderableType]:
        if self._bar is not None:
            counts = self._counts.value
            failed = counts.failed + counts.timed_out
            total = "?" if counts.total is None else f"{counts.total:,}"
            self.update(
                self._bar,
                completed=counts.done,
                total=counts.total,
                done=f"{counts.done:,}/{total}",
                failed=f"{failed:,} failed" if failed else "",
            )
        yield from super().get_renderables()
