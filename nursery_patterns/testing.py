"""Prove that a scenario survives being cancelled anywhere, on a virtual clock.

Write the scenario once; the kit runs it again and again and cancels it at each of its checkpoints
in turn. After each run it checks that items are conserved and that no slot, token, task or thread
is left behind::

    async def scenario(probe: Probe) -> None:
        batch = probe.watch(Batch(fetch, range(5), limit=2))
        await batch.run()


    def test_a_cancelled_fetch_loses_nothing():
        cancel_at_every_checkpoint(scenario)

What a run waits for may be virtual time, other tasks and threads. Threads do not know the virtual
clock: while one works, time may jump.
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

Scenario = Callable[[Probe], Awaitable[object]] | Callable[[], Awaitable[object]]


class CheckpointFailure(AssertionError):  # noqa: N818 - a failed check, as pytest has it
    """What did not hold in one run of a scenario.

    Attributes:
        checkpoint: Number of the checkpoint at which the run was cancelled, from 0; None if it was
            not.
        place: File and line at which a task was first told of the cancel; None if none was.
        problem: What did not hold.
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

    Every run has its own `trio.run` with a virtual clock that starts at 0. After each, whether it
    was cut or not: all that is watched is at rest, no task and no thread is left, and the cancel
    was not swallowed. So call this from a plain function, not from an async one.

    Args:
        scenario: Async function of a `Probe`, or of nothing. Run without a cancel it must end,
            and raise nothing.
        after: Async function of the same `Probe`, run after each run without being cancelled: to
            resume, and to check what the scenario left behind in `probe.kept`.
        max_checkpoints: Checkpoints that the scenario may have.
        seed: Decides in which order trio runs the tasks that are ready at the same time.
        only: Try just this checkpoint, to look at one failure.

    Returns:
        How many checkpoints were tried.

    Raises:
        CheckpointFailure: An `AssertionError` that says what did not hold, at which checkpoint, the
            earliest one, and how to run just that one.
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
    """Run a scenario again and again, each time with a deadline at another instant.

    Args:
        scenario: As for `cancel_at_every_checkpoint`.
        instants: Seconds on the virtual clock, which starts at 0. By default every instant at
            which anything happens in a run to the end, and every middle between two of them.
        after: As for `cancel_at_every_checkpoint`.
        max_checkpoints: As for `cancel_at_every_checkpoint`.
        seed: As for `cancel_at_every_checkpoint`.

    Returns:
        How many instants were tried.

    Raises:
        AssertionError: What did not hold, and at which instant.
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
    # One that watches nothing needs no probe: tasks and threads are checked all the same.
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
    """Count who is inside a block::

        gauge = InFlightGauge()

        async def fetch(url):
            with gauge:
                ...

        assert gauge.peak == 10

    Attributes:
        now: How many are inside.
        peak: How many there ever were at once.
        entered: How many ever came.
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
