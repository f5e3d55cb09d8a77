"""The source of a batch's items: pulled lazily, one by one, each with its index.

The source is synchronous, except that it waits for the next item of an async iterable. Items that a
run did not finish are returned to it and come first again.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Sequence,
    Sized,
)
from itertools import islice
from typing import Generic, TypeVar

import trio

from nursery_patterns._arguments import name_of
from nursery_patterns._outcomes import Outcome

ItemT = TypeVar("ItemT")
ValueT = TypeVar("ValueT")


class Source(Generic[ItemT]):
    """The items not yet pulled, in input order.

    Indexes are assigned at the pull, from 0, without gaps. So the pulled items are exactly those
    with an index below `pulled`.
    """

    def __init__(self, items: Iterable[ItemT] | AsyncIterable[ItemT]) -> None:
        # Exactly one of the two is there.
        self._iterator: Iterator[ItemT] | None = None
        self._async_iterator: AsyncIterator[ItemT] | None = None
        # A channel can return an available item without waiting; an async iterator cannot.
        self._channel: trio.MemoryReceiveChannel[ItemT] | None = None
        if isinstance(items, trio.MemoryReceiveChannel):
            self._channel = items
        if isinstance(items, AsyncIterable) and not isinstance(items, Iterable):
            self._async_iterator = aiter(items)
        else:
            self._iterator = iter(items)
        self._length = _length_of(items)
        self._given_back: deque[tuple[int, ItemT]] = deque()
        self._ahead: deque[ItemT] = deque()  # taken from the iterator for a report
        self._met_early: list[Exception] = []  # what the iterator raised during a report
        self._pulling = False  # still true after a pull that was cancelled or raised
        self._torn = False  # an earlier run ended in the middle of a pull
        self.at_end: bool = False
        self.broken: RuntimeError | None = None  # why the remaining items are lost, if they are
        self.pulled: int = 0

    @property
    def immediate(self) -> bool:
        """Whether `pull_nowait` may be used: some items need no waiting."""
        return self._iterator is not None or self._channel is not None

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left to pull. A sized source ends at its initial length."""
        return not self._given_back and (
            self.at_end or self.broken is not None or self.pulled == self._length
        )

    @property
    def total(self) -> int | None:
        """Number of items, or None while it is unknown."""
        return self.pulled if self.at_end else self._length

    @property
    def known(self) -> int:
        """Number of known items: the total, or the items pulled so far."""
        total = self.total
        return self.pulled if total is None else total

    def adopt(
        self, outcomes: Sequence[Outcome[ItemT, ValueT]]
    ) -> tuple[Sequence[Outcome[ItemT, ValueT]], set[int]]:
        """Take outcomes of an earlier process; return them, and the indexes still to be pulled."""
        return outcomes, {outcome.index for outcome in outcomes}

    def tell_added(self, on_added: Callable[[ItemT], object]) -> None:
        """Call a function with each item that is added to a source that grows."""

    def stop(self) -> None:
        """End a run."""

    def pull_nowait(self) -> tuple[int, ItemT] | None:
        """Take the next item and its index, or None if it would have to wait.

        It is also None if nothing is left, or if the source is `broken`.

        Raises:
            Exception: Whatever the iterator raises.
        """
        if self._given_back:
            return self._given_back.popleft()
        index = self.pulled
        if self.at_end or self.broken is not None or index == self._length:
            return None
        if self._channel is not None:
            return self._receive_nowait(self._channel)
        if self._ahead:
            item = self._ahead.popleft()
        else:
            assert self._iterator is not None
            if self._met_early:
                self._pulling = True
                raise self._met_early.pop()
            if self._pulling:
                return None  # another worker's pull raised, and this run is about to end
            self._pulling = True
            try:
                item = next(self._iterator)
            except StopIteration:
                if self._torn:
                    self.broken = self._out_of_reach(self._iterator)
                else:
                    self.at_end = True
                return None
            self._pulling = self._torn = False
        self.pulled = index + 1
        return index, item

    def _receive_nowait(
        self, channel: trio.MemoryReceiveChannel[ItemT]
    ) -> tuple[int, ItemT] | None:
        try:
            item = channel.receive_nowait()
        except trio.WouldBlock:
            return None
        except trio.EndOfChannel:
            self.at_end = True
            return None
        self.pulled += 1
        return self.pulled - 1, item

    async def _receive(self, channel: trio.MemoryReceiveChannel[ItemT]) -> tuple[int, ItemT] | None:
        try:
            item = await channel.receive()
        except trio.EndOfChannel:
            self.at_end = True
            return None
        self.pulled += 1
        return self.pulled - 1, item

    async def pull(self) -> tuple[int, ItemT] | None:
        """Wait for the next item and its index; None at the end.

        A cancel during the wait loses no item that the iterator has returned.
        """
        if self._async_iterator is None or self._given_back or self.exhausted:
            return self.pull_nowait()
        if self._channel is not None:
            entry = self.pull_nowait()
            if entry is not None or self.at_end:
                return entry
            return await self._receive(self._channel)
        if self._torn and _is_closed_generator(self._async_iterator):
            self.broken = self._out_of_reach(self._async_iterator)
            return None
        self._pulling = True
        try:
            item = await anext(self._async_iterator)
        except StopAsyncIteration:
            self.at_end = True
            return None
        self._pulling = self._torn = False
        self.pulled += 1
        return self.pulled - 1, item

    def put_back(self, entry: tuple[int, ItemT]) -> None:
        """Return an item that was just pulled: it is pulled next."""
        self._given_back.appendleft(entry)

    def resume(self, items: Iterable[tuple[int, ItemT]]) -> None:
        """Begin a run. Items that were pulled but did not end come first, in index order."""
        self._torn |= self._pulling
        self._pulling = False
        self._given_back = deque(sorted((*self._given_back, *items), key=lambda entry: entry[0]))

    def given_back(self) -> tuple[tuple[int, ItemT], ...]:
        """Yield the items that were pulled, did not end, and come first again."""
        return tuple(self._given_back)

    def rest(self) -> Iterable[tuple[int, ItemT]]:
        """Yield the items not yet pulled, if that needs no waiting: those of a sized source.

        It never raises: an error of the iterator is kept for the pull that would have met it.
        """
        if self._length is None or self.at_end or self._iterator is None:
            return ()
        if not (self._pulling or self._torn):
            missing = self._length - self.pulled - len(self._ahead)
            self._pulling = True
            try:
                self._ahead.extend(islice(self._iterator, missing))
            except Exception as exc:  # noqa: BLE001 - kept, and raised by that pull
                self._met_early.append(exc)
            else:
                self._pulling = False
                self._length = self.pulled + len(self._ahead)  # it may have fewer items
        return enumerate(self._ahead, start=self.pulled)

    def _out_of_reach(self, iterator: object) -> RuntimeError:
        # If an iterator ends right after a pull that was cancelled or raised, it may not have
        # returned all its items: this closes a generator. If that counted as the end, a batch that
        # did not see every item would look complete.
        return RuntimeError(
            f"the source {name_of(iterator)} was cancelled or raised while it made its next item, "
            "and has ended since, so that the rest of its items is out of reach: to resume such a "
            "batch, pass an iterator object whose own __next__ or __anext__ can be called again"
        )


def _length_of(items: object) -> int | None:
    try:
        return len(items) if isinstance(items, Sized) else None
    except (TypeError, OverflowError):  # its length is not defined, or too large
        return None


def _is_closed_generator(iterator: object) -> bool:
    return inspect.isasyncgen(iterator) and iterator.ag_frame is None
