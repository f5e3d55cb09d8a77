"""The checks after a scenario: items are conserved, and nothing is held."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, final

import trio

from nursery_patterns._admission import Admission
from nursery_patterns._batch import Batch
from nursery_patterns._limits import Limits
from nursery_patterns._outcomes import Outcome, Status
from nursery_patterns._token_bucket import TokenBucket

T = TypeVar("T")

AnyBatch = Batch[Any, Any]
AnyOutcome = Outcome[Any, Any]


@final
class Probe:
    """The checks of one run. Each run gets a new probe.

    Attributes:
        kept: Values that the scenario passes to `after`, by name.
    """

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}
        self._watched: list[object] = []
        self._functions: list[Callable[[], object]] = []
        self._delivered: dict[int, list[AnyOutcome]] = {}

    def watch(self, thing: T) -> T:
        """Check an object after the run: a batch, a limiter, or another class of this library.

        `Batch`: one outcome per index, in order; statuses agree with values and errors; counts add
        up; `complete` is true only if all items ended; nothing is in flight.
        `trio.CapacityLimiter`, `Limits`, `TokenBucket`, `Admission`: nothing is held, and no task
        waits.

        Returns:
            The object itself.

        Raises:
            TypeError: There is no check for this type. Write one, and pass it to `check`.
        """
        _checker_of(thing)
        self._watched.append(thing)
        return thing

    def check(self, function: Callable[[], object]) -> None:
        """Call your own function after the run. It raises an exception if its check fails."""
        self._functions.append(function)

    def delivered(self, batch: AnyBatch, outcome: AnyOutcome) -> None:
        """Record an outcome that a stream of a watched batch yielded.

        Call it for each outcome, before any `await`. A stream keeps no outcomes, so only its
        consumer can prove that none is missing and none was yielded twice.
        """
        self._delivered.setdefault(id(batch), []).append(outcome)

    def verify(self) -> None:
        """Check all watched objects now.

        Raises:
            AssertionError: A sentence for each failed check.
        """
        wrong = [
            problem
            for thing in self._watched
            for problem in _checker_of(thing)(thing, self._delivered.get(id(thing), []))
        ]
        if wrong:
            raise AssertionError("; ".join(wrong))
        for function in self._functions:
            function()


def _problems_of_batch(batch: AnyBatch, delivered: list[AnyOutcome]) -> Iterable[str]:
    report = batch.report()
    counts = report.counts
    indexes = [outcome.index for outcome in report.outcomes]
    if indexes != sorted(set(indexes)):
        yield f"{batch!r} does not report one outcome per index, in order: {indexes}"
    twice = [n for n, times in Counter(o.index for o in delivered).items() if times > 1]
    if twice:
        yield f"{batch!r} delivered these indexes more than once: {twice}"
    known = {outcome.index: outcome for outcome in (*report.outcomes, *delivered)}
    for outcome in known.values():
        if not _is_consistent(outcome):
            yield f"{outcome!r} contradicts itself"
    tally = Counter(outcome.status for outcome in known.values())
    for status in Status:
        counted = getattr(counts, status)
        if tally[status] != counted:
            yield f"{batch!r} counts {counted} {status}, and has {tally[status]} such outcomes"
    if counts.total not in {None, sum(getattr(counts, status) for status in Status)}:
        yield f"{batch!r} has counts that do not add up to their total: {counts}"
    if report.complete != (counts.total == counts.done):
        yield f"{batch!r} says complete={report.complete}, with {counts}"
    if counts.in_flight:
        yield f"{batch!r} still has items in flight"


def _problems_of_limiter(limiter: trio.CapacityLimiter, _: list[AnyOutcome]) -> Iterable[str]:
    now = limiter.statistics()
    if now.borrowed_tokens:
        yield f"{now.borrowed_tokens} of {now.total_tokens} tokens of a limiter are still held"
    if now.tasks_waiting:
        yield f"{now.tasks_waiting} tasks still wait for a limiter"


def _problems_of_limits(limits: Limits, _: list[AnyOutcome]) -> Iterable[str]:
    for name, now in limits.snapshot().items():
        if now.in_use or now.waiting:
            yield f"the limit {name!r} is not at rest: {now}"


def _problems_of_bucket(bucket: TokenBucket, _: list[AnyOutcome]) -> Iterable[str]:
    if bucket.statistics().waiting:
        yield f"tasks still wait for {bucket!r}"


def _problems_of_admission(admission: Admission, _: list[AnyOutcome]) -> Iterable[str]:
    now = admission.statistics()
    if now.holding or now.waiting:
        yield f"{admission!r} is not at rest"


# The check of each type: a function that yields a sentence for each problem.
_CHECKERS: dict[type, Callable[[Any, list[AnyOutcome]], Iterable[str]]] = {
    Batch: _problems_of_batch,
    trio.CapacityLimiter: _problems_of_limiter,
    Limits: _problems_of_limits,
    TokenBucket: _problems_of_bucket,
    Admission: _problems_of_admission,
}


def _checker_of(thing: object) -> Callable[[Any, list[AnyOutcome]], Iterable[str]]:
    for kind, checker in _CHECKERS.items():
        if isinstance(thing, kind):
            return checker
    known = ", ".join(kind.__name__ for kind in _CHECKERS)
    raise TypeError(
        f"cannot watch {thing!r}, only one of {known}: "
        "write probe.check(function) with a function that raises what is wrong"
    )


def _is_consistent(outcome: AnyOutcome) -> bool:
    status, error = outcome.status, outcome.error
    if status is Status.SUCCEEDED:
        return error is None
    if status is Status.TIMED_OUT:
        return isinstance(error, trio.TooSlowError) and outcome.value is None
    if status is Status.FAILED:
        return error is not None and outcome.value is None
    return error is None and outcome.value is None and outcome.elapsed == 0
