"""How each item ended, and the report on all of them: frozen values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Any, Generic, TypeVar

ItemT = TypeVar("ItemT")
ValueT = TypeVar("ValueT")

_MAX_REPR = 200


class Status(StrEnum):
    """The status of an item. Each item of a report has exactly one of the five."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    """Started, and cancelled before it ended. Its side effects may have happened."""
    NOT_STARTED = "not_started"
    """Has no result and was not cancelled: it waits, or runs while the report is made."""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[ItemT, ValueT]):
    """How one item ended.

    Attributes:
        index: Position of the item in the input, from 0.
        item: The item itself.
        status: How it ended, or why it did not.
        value: What `fn` returned if it succeeded, else None.
        error: What `fn` raised if it failed; a `trio.TooSlowError` if it timed out; else None.
        elapsed: Seconds from getting its slot to its end; 0 if it never ended.
        attempts: How often `fn` was called for it in its run; 1 without a retry, 0 if it has not
            started.
        note: For an item that was cancelled while it was retried, how the last attempt failed.
    """

    index: int
    item: ItemT
    status: Status
    value: ValueT | None = None
    error: Exception | None = None
    elapsed: float = 0.0
    attempts: int = field(default=1, compare=False)
    note: str | None = field(default=None, compare=False)

    @property
    def succeeded(self) -> bool:
        """Whether `value` is a result."""
        return self.status is Status.SUCCEEDED

    def unwrap(self) -> ValueT:
        """Return the value of an item that succeeded.

        Raises:
            Exception: What the item raised if it failed; a `trio.TooSlowError` if it timed out.
            RuntimeError: The item did not end, so it has no value and no error.
        """
        if self.status is Status.SUCCEEDED:
            return self.value  # pyright: ignore[reportReturnType] - a success holds a ValueT
        if self.error is not None:
            try:
                raise self.error
            finally:
                del self  # or the error has this frame, and the frame the error
        raise RuntimeError(
            f"item {self.index} has no value: it is {self.status}; run the batch again to finish it"
        )


@dataclass(slots=True)
class _Draft(Generic[ItemT, ValueT]):
    index: int
    item: ItemT
    status: Status
    value: ValueT | None
    error: Exception | None
    elapsed: float
    attempts: int
    note: str | None


# A call of the class itself costs as much as all that `make_outcome` does.
_new_draft: Callable[[], _Draft[Any, Any]] = partial(object.__new__, _Draft)


def make_outcome(
    index: int,
    item: ItemT,
    status: Status,
    value: ValueT | None,
    error: Exception | None,
    elapsed: float,
    attempts: int = 1,
    note: str | None = None,
) -> Outcome[ItemT, ValueT]:
    """Make an `Outcome` for a quarter of what its own constructor costs.

    A frozen dataclass sets each field through `object.__setattr__`. Here they are set on a draft
    with the same slots, which then becomes the frozen class. The engine makes one per item, where
    this is an eighth of all it does (`python -m tests.benchmarks map`).
    """
    draft = _new_draft()
    draft.index = index
    draft.item = item
    draft.status = status
    draft.value = value
    draft.error = error
    draft.elapsed = elapsed
    draft.attempts = attempts
    draft.note = note
    draft.__class__ = Outcome  # pyright: ignore[reportAttributeAccessIssue]
    return draft  # pyright: ignore[reportReturnType]


@dataclass(frozen=True, slots=True)
class Counts:
    """The number of items in each status.

    `total` is the sum of the five statuses, or None while the number of items in the source is
    unknown. `in_flight` items are running now. They have no result, so they are included in
    `not_started`.
    """

    total: int | None = None
    succeeded: int = 0
    failed: int = 0
    timed_out: int = 0
    cancelled: int = 0
    not_started: int = 0
    in_flight: int = 0

    @property
    def done(self) -> int:
        """Items that ended: succeeded, failed or timed out."""
        return self.succeeded + self.failed + self.timed_out

    @property
    def complete(self) -> bool:
        """Whether every item of an exhausted source ended."""
        return self.done == self.total


# Without slots: if a frozen class has slots, assigning a name that is not a field, such as
# `complete`, raises a TypeError about `super` instead of a FrozenInstanceError.
@dataclass(frozen=True)
class Report(Generic[ItemT, ValueT]):
    """The state of a batch at one moment.

    Attributes:
        outcomes: One per known item, in input order. A stream without `retain` keeps no outcomes of
            items that its consumer has taken.
        counts: The number of items in each status.
        elapsed: Seconds that the batch has been running, over all its runs.
    """

    outcomes: tuple[Outcome[ItemT, ValueT], ...]
    counts: Counts
    elapsed: float

    @property
    def complete(self) -> bool:
        """Whether every item of an exhausted source ended: succeeded, failed or timed out."""
        return self.counts.complete

    def values(self) -> list[ValueT]:
        """Return the results of the items that succeeded, in input order."""
        return [o.value for o in self.outcomes if o.status is Status.SUCCEEDED]  # pyright: ignore[reportReturnType] - a success holds a ValueT, which may itself be None

    def errors(self) -> list[Exception]:
        """Return the errors of failed and timed-out items, in input order."""
        return [o.error for o in self.outcomes if o.error is not None]

    def unfinished(self) -> list[ItemT]:
        """Return the items that did not end (cancelled or not started), in input order."""
        missing = (Status.CANCELLED, Status.NOT_STARTED)
        return [o.item for o in self.outcomes if o.status in missing]

    def raise_errors(self, *, unwrap: bool = False) -> None:
        """Raise the errors of failed and timed-out items, if there are any.

        Items that did not end are not errors.

        Args:
            unwrap: If there is exactly one error, raise it without a group.

        Raises:
            ExceptionGroup: The errors in input order, each with a note that names its item.
        """
        errors = [
            _with_note(o.error, f"item {o.index}: {brief_repr(o.item)}")
            for o in self.outcomes
            if o.error is not None
        ]
        if unwrap and len(errors) == 1:
            try:
                raise errors[0]
            finally:
                del self, errors  # or the error has this frame, and the frame the error
        if errors:
            raise ExceptionGroup(f"{len(errors)} of {len(self.outcomes)} items failed", errors)


def brief_repr(thing: object) -> str:
    """Return the `repr` of an object for a message: truncated if long, and never an exception."""
    try:
        text = repr(thing)
    except Exception as exc:  # noqa: BLE001 - the message is about something else
        return f"<{type(thing).__name__} whose repr raises {type(exc).__name__}>"
    return text if len(text) <= _MAX_REPR else f"{text[: _MAX_REPR - 3]}..."


def _with_note(error: Exception, note: str) -> Exception:
    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)
    return error
