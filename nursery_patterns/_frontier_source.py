"""The source of a batch over a `Frontier`, and the choice of a batch's source."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from nursery_patterns._frontier import Frontier, queue_of
from nursery_patterns._outcomes import Outcome
from nursery_patterns._source import Source

ItemT = TypeVar("ItemT")
ValueT = TypeVar("ValueT")


class FrontierSource(Source[ItemT]):
    """The items of a frontier, which grows while items run. It observes their ends."""

    def __init__(self, frontier: Frontier[ItemT]) -> None:
        super().__init__(())
        self._queue = queue_of(frontier)
        self._queue.take()

    def adopt(
        self, outcomes: Sequence[Outcome[ItemT, ValueT]]
    ) -> tuple[Sequence[Outcome[ItemT, ValueT]], set[int]]:
        """Go on from an earlier process: what was pulled in it and did not end comes first.

        Raises:
            ValueError: An outcome is of no item that the frontier was restored with.
        """
        before, self._queue.pulled_before = self._queue.pulled_before, {}
        self.pulled = len(before)
        found: list[Outcome[ItemT, ValueT]] = []
        for outcome in outcomes:
            if outcome.index not in before:
                raise ValueError(
                    f"the journal has an outcome of item {outcome.index}, and no such item of the "
                    "frontier had started: make the frontier with Frontier.restore(entries), each "
                    "entry an item and the index that Journal.started was told, or None"
                )
            found.append(replace(outcome, item=before.pop(outcome.index)))
        self._given_back.extend(sorted(before.items(), key=lambda entry: entry[0]))
        if self.exhausted:
            self._queue.close()
        return found, set()

    def tell_added(self, on_added: Callable[[ItemT], object]) -> None:
        """Call a function with each item that is added, and with the first items."""
        self._queue.tell(on_added)

    @property
    def exhausted(self) -> bool:
        """Whether nothing waits, and nothing runs that could add to it."""
        queue = self._queue
        return not (self._given_back or queue.waiting or queue.open or queue.pulled_before)

    @property
    def total(self) -> int | None:
        """Number of items once all of them ended, else None."""
        return self.pulled if self.exhausted else None

    @property
    def known(self) -> int:
        """Number of known items."""
        return self.pulled + len(self._queue.waiting)

    def pull_nowait(self) -> tuple[int, ItemT] | None:
        """Take the next item and its index, or None if none waits."""
        if self._given_back:
            self._queue.open += 1
            return self._given_back.popleft()
        if not self._queue.waiting:
            return None
        self._queue.open += 1
        self.pulled += 1
        return self.pulled - 1, self._queue.pull()

    async def pull(self) -> tuple[int, ItemT] | None:
        """Wait for the next item and its index; None at the end."""
        while (entry := self.pull_nowait()) is None and not self.exhausted:
            await self._queue.wait()
        return entry

    def put_back(self, entry: tuple[int, ItemT]) -> None:
        """Return an item that was just pulled: it is pulled next."""
        super().put_back(entry)
        self._queue.open -= 1

    def resume(self, items: Iterable[tuple[int, ItemT]]) -> None:
        """Begin a run. Items that were pulled but did not end come first, in index order."""
        super().resume(items)
        self._queue.open = 0
        self._queue.running = True

    def ended(self, outcome: object) -> None:  # noqa: ARG002 - told as an observer is
        """Record that an item ended, and cannot add others any more."""
        self._queue.open -= 1
        if self.exhausted:
            self._queue.close()

    def stop(self) -> None:
        """End a run."""
        self._queue.running = False

    def rest(self) -> Iterable[tuple[int, ItemT]]:
        """Yield the waiting items."""
        return enumerate(self._queue.items(), start=self.pulled)


def source_of(
    items: Iterable[ItemT] | AsyncIterable[ItemT] | Frontier[ItemT],
) -> Source[ItemT]:
    """Return the source of a batch's items."""
    return FrontierSource(items) if isinstance(items, Frontier) else Source(items)
