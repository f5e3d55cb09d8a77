"""A source of items that grows while a batch works on it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar, final

import trio

from nursery_patterns._arguments import check_count, check_items
from nursery_patterns._growing_queue import RESTORE, GrowingQueue

ItemT = TypeVar("ItemT")
OtherT = TypeVar("OtherT")

_MAX_ITEMS = 100_000
_CALL = "Frontier([first], key=..., max_items=1000)"


@final
class Frontier(Generic[ItemT]):
    """A source to which the batch's own function adds items: a crawl, a walk, a search.

    Usage::

        frontier = Frontier([start_url], key=normalised, max_items=1_000)


        async def visit(url):
            for link in await links_of(url):
                frontier.add(link)  # False if it was added before


        report = await run_batch(visit, frontier, limit=10)

    It is exhausted when it is empty and no running item of the batch could add to it. A batch over
    it can be cancelled and resumed: added items stay. It serves one batch. A journal of the batch
    learns of each added item, and `Frontier.restore` goes on from there in another process.

    Args:
        items: The first items. Items with a repeated key are skipped.
        key: Function of an item that returns its key; items with equal keys are duplicates. By
            default the item itself, which must be hashable. Every key is kept, also after its item
            has ended.
        max_items: Most items in total, including the first ones.
        priority: Function of an item that returns a number; the lowest comes next. By default, and
            among equals, first in, first out.

    Raises:
        TypeError: A key cannot be hashed, or a priority is not a number.
        ValueError: An argument is out of its bounds, or a priority is NaN.
        FrontierFull: There are more first items than `max_items`.
    """

    def __init__(
        self,
        items: Iterable[ItemT] = (),
        *,
        key: Callable[[ItemT], Hashable] | None = None,
        max_items: int = _MAX_ITEMS,
        priority: Callable[[ItemT], float] | None = None,
    ) -> None:
        for name, function in (("key", key), ("priority", priority)):
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be a function, got {function!r}: write {_CALL}")
        self._queue: GrowingQueue[ItemT] = GrowingQueue(
            key, priority, check_count("max_items", max_items, call=_CALL)
        )
        for item in items:
            self._queue.add(item)

    @staticmethod
    def restore(
        entries: Iterable[tuple[OtherT, int | None]],
        *,
        key: Callable[[OtherT], Hashable] | None = None,
        max_items: int = _MAX_ITEMS,
        priority: Callable[[OtherT], float] | None = None,
    ) -> Frontier[OtherT]:
        """Return a frontier as it was in an earlier process, for a batch with the same journal.

        Its keys are the seen ones, and its items have the order and the indexes that they had. The
        batch runs what has no outcome in `Journal.outcomes()`.

        Args:
            entries: All items that were ever added, in the order in which they were added, each
                with the index under which it started, or None if it never did. A repeated key is
                skipped.
            key: As in the earlier process.
            max_items: The same.
            priority: The same.

        Raises:
            ValueError: Two items have the same index, or an item that was added is missing.
            TypeError: An entry is no such pair, a key cannot be hashed, or a priority is not a
                number.
            FrontierFull: There are more items than `max_items`.
        """
        check_items(entries, call=RESTORE)
        frontier = Frontier[OtherT]((), key=key, max_items=max_items, priority=priority)
        queue_of(frontier).restore(entries)
        return frontier

    def __repr__(self) -> str:
        return f"<Frontier: {len(self._queue.seen)} added, {len(self)} waiting>"

    def __len__(self) -> int:
        """The number of waiting items."""
        return len(self._queue.waiting)

    def add(self, item: ItemT) -> bool:
        """Add an item to the running batch, unless its key was added before.

        It never waits. It may be called by the batch's function, or by any task of the same trio
        run while the batch runs.

        Returns:
            Whether it was added.

        Raises:
            FrontierFull: `max_items` have been added.
            RuntimeError: The batch is not running, or this is another thread.
            TypeError: Its key cannot be hashed, or its priority is not a number.
            ValueError: Its priority is NaN.
        """
        if self._queue.closed:
            raise RuntimeError(
                f"cannot add {item!r}: the batch over this frontier has ended; add items in the "
                "batch's function before it returns, or make another Frontier"
            )
        if not self._queue.running:
            raise RuntimeError(
                f"cannot add {item!r}: no batch runs over this frontier; give the first items to "
                "it, as in Frontier([item]), and add others in the batch's function"
            )
        try:
            trio.lowlevel.current_task()
        except RuntimeError:
            raise RuntimeError(
                f"cannot add {item!r} from another thread: write "
                "trio.from_thread.run_sync(frontier.add, item)"
            ) from None
        return self._queue.add(item)


def queue_of(frontier: Frontier[ItemT]) -> GrowingQueue[ItemT]:
    """Return the queue of a frontier, for its batch."""
    return frontier._queue  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
