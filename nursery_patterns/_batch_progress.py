"""The counts of a batch as a value to wait on: `BatchProgress`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from trio_util import AsyncValue

from nursery_patterns._item_states import ItemStates
from nursery_patterns._observer import Observer
from nursery_patterns._outcomes import Counts, Outcome


class BatchProgress(Protocol):
    """The counts of a batch, to read and to wait on. It is a `trio_util.AsyncValue` at run time.

    A predicate is a function of the counts. It is called at each change, so it must be quick.
    """

    @property
    def value(self) -> Counts:
        """The current counts."""
        ...

    async def wait_value(
        self, value_or_predicate: Counts | Callable[[Counts], bool], *, held_for: float = 0.0
    ) -> Counts:
        """Wait until the counts match, and have matched for `held_for` seconds; return them."""
        ...

    async def wait_transition(
        self, value_or_predicate: Counts | Callable[[Counts, Counts], bool] = ...
    ) -> tuple[Counts, Counts]:
        """Wait for a change to counts that match; return the new and the old ones.

        The predicate gets both, the new ones first.
        """
        ...

    def eventual_values(
        self, value_or_predicate: Counts | Callable[[Counts], bool] = ..., held_for: float = 0.0
    ) -> AbstractContextManager[AsyncIterator[Counts]]:
        """Iterate over the counts that match. Some may be skipped, but not the latest."""
        ...

    def transitions(
        self, value_or_predicate: Counts | Callable[[Counts, Counts], bool] = ...
    ) -> AbstractContextManager[AsyncIterator[tuple[Counts, Counts]]]:
        """Iterate over the changes to counts that match, as (new, old)."""
        ...


class ProgressPublisher(Observer[Any, Any]):
    """Updates the progress of a batch. It has no reference to the batch, which would be a cycle."""

    def __init__(self, progress: AsyncValue[Counts], states: ItemStates[Any, Any]) -> None:
        self._progress = progress
        self._states = states

    def ended(self, outcome: Outcome[Any, Any]) -> None:  # noqa: ARG002 - it tells the counts
        self._progress.value = self._states.counts(active=True)
