"""Test that a scenario survives a cancel at any checkpoint, on a virtual clock.

Write the scenario once. The kit runs it repeatedly and cancels it at each of its checkpoints in
turn. After each run it checks that items are conserved and that no slot, token, task or thread is
left::

    async def scenario(probe: Probe) -> None:
        batch = probe.watch(Batch(fetch, range(5), limit=2))
        await batch.run()


    def test_a_cancelled_fetch_loses_nothing():
        cancel_at_every_checkpoint(scenario)

A scenario may wait for virtual time, for other tasks and for threads. Threads do not follow the
virtual clock: while one works, the time may jump.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from itertools import count, pairwise
from typing import TYPE_CHECKING, Any, Self, cast, final

from nursery_patterns._invariants import Probe as Probe  # noqa: PLC0414 - exported by this
from nursery_patterns._scenario_run import ScenarioRun

if TYPE_CHECKING:
    from types import TracebackType

__all__ = (
    "CheckpointFailure",
    "InFlightGauge",
    "Probe",
    "cancel_at_every_checkpoint",
    "expire_at_every_instant",
)

Scenario = Callable[[Probe], Awaitable[object]] | Callable[[], Awaitable[object]]


class CheckpointFailure(AssertionError):  # noqa: N818 - a failed check, as pytest has it
    """A check failed in one run of a scenario.

    Attributes:
        checkpoint: Number of the checkpoint at which the run was cancelled, from 0; None if it was
            not cancelled.
        place: File and line at which a task first received the cancel; None if none did.
        problem: The check that failed.
    """

    def __init__(
        self,
        message: str,
        *,
        checkpoint: int | None,
        place: tuple[str, int] | None,
        problem: str,
    ) -> None:
        super().__init__(message)
        self.checkpoint = checkpoint
        self.place = place
        self.problem = problem


def cancel_at_every_checkpoint(
    scenario: Scenario,
    *,
    after: Scenario | None = None,
    max_checkpoints: int = 10_000,
    seed: int = 0,
    only: int | None = None,
) -> int:
    """Run a scenario once to its end, and then once for each of its checkpoints, cancelled there.

    Each run is a separate `trio.run` with a virtual clock that starts at 0, so call this from a
    synchronous function. After each run it checks that all watched objects are idle, that no task
    and no thread is left, and that the cancel was not swallowed.

    Args:
        scenario: Async function of a `Probe`, or without arguments. Without a cancel it must end
            without an exception.
        after: Async function of the same `Probe`, called after each run and never cancelled. It may
            resume the work, and check `probe.kept`.
        max_checkpoints: Most checkpoints of the scenario.
        seed: Determines the order in which trio runs tasks that are ready at the same time.
        only: Cancel only at this checkpoint, to debug one failure.

    Returns:
        The number of checkpoints that were tried.

    Raises:
        CheckpointFailure: An `AssertionError` that names the failed check, the earliest checkpoint
            at which it failed, and the call that runs only that one.
    """
    try_once = partial(_try, scenario, after, max_steps=max_checkpoints, seed=seed)
    if only is None:
        try_once("run to its end", "")
    tried = 0
    for number in count() if only is None else (only,):
        again = f"cancel_at_every_checkpoint(scenario, only={number}, seed={seed})"
        if not try_once(f"cancelled at checkpoint {number}", again, cut_after=number).cut:
            break
        tried += 1
    return tried


def expire_at_every_instant(
    scenario: Scenario,
    instants: Iterable[float] | None = None,
    *,
    after: Scenario | None = None,
    max_checkpoints: int = 10_000,
    seed: int = 0,
) -> int:
    """Run a scenario repeatedly, each time with a deadline at another instant.

    Args:
        scenario: As for `cancel_at_every_checkpoint`.
        instants: Seconds on the virtual clock, which starts at 0. By default every instant at which
            anything happens in a complete run, and the midpoints between them.
        after: As for `cancel_at_every_checkpoint`.
        max_checkpoints: As for `cancel_at_every_checkpoint`.
        seed: As for `cancel_at_every_checkpoint`.

    Returns:
        The number of instants that were tried.

    Raises:
        AssertionError: It names the failed check and the instant.
    """
    try_once = partial(_try, scenario, after, max_steps=max_checkpoints, seed=seed)
    if instants is None:
        happened = sorted(try_once("run to its end", "").instants)
        middles = [(a + b) / 2 for a, b in pairwise(happened)]
        instants = sorted((*happened, *middles))
    tried = 0
    for instant in instants:
        again = f"expire_at_every_instant(scenario, [{instant!r}], seed={seed})"
        try_once(f"expired at {instant!r} s", again, deadline=instant)
        tried += 1
    return tried


def _with_probe(scenario: Scenario, probe: Probe) -> Callable[[], Awaitable[object]]:
    # A scenario that watches nothing needs no probe: tasks and threads are still checked.
    takes_one = inspect.signature(scenario).parameters
    return partial(scenario, probe) if takes_one else cast("Callable[[], Any]", scenario)


def _try(
    scenario: Scenario,
    after: Scenario | None,
    when: str,
    again: str,
    *,
    max_steps: int,
    seed: int,
    cut_after: int | None = None,
    deadline: float = math.inf,
) -> ScenarioRun:
    probe = Probe()

    async def settle() -> None:
        probe.verify()
        if after is not None:
            await _with_probe(after, probe)()
            probe.verify()

    trial = ScenarioRun(
        _with_probe(scenario, probe),
        settle,
        max_steps=max_steps,
        seed=seed,
        cut_after=cut_after,
        deadline=deadline,
    )
    try:
        trial.run()
    except Exception as exc:
        where = f", {trial.where}" if cut_after is not None else ""
        advice = f"\nTo see just this one: {again}" if again else ""
        problem = _sentence_of(exc)
        raise CheckpointFailure(
            f"{when}{where}: {problem}{advice}",
            checkpoint=cut_after,
            place=trial.place,
            problem=problem,
        ) from exc
    return trial


def _sentence_of(exc: Exception) -> str:
    if isinstance(exc, ExceptionGroup):
        return "; ".join(map(_sentence_of, cast("ExceptionGroup[Exception]", exc).exceptions))
    text = str(exc)
    return text if isinstance(exc, AssertionError) and text else f"{type(exc).__name__}: {text}"


@final
class InFlightGauge:
    """Count the tasks inside a block::

        gauge = InFlightGauge()

        async def fetch(url):
            with gauge:
                ...

        assert gauge.peak == 10

    Attributes:
        now: Tasks inside now.
        peak: Most tasks inside at once so far.
        entered: Tasks that entered so far.
    """

    def __init__(self) -> None:
        self.now: int = 0
        self.peak: int = 0
        self.entered: int = 0

    def __enter__(self) -> Self:
        self.now += 1
        self.entered += 1
        self.peak = max(self.peak, self.now)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.now -= 1
