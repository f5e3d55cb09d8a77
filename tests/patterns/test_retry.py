"""What failed is tried again as the policy says, and others have the slot meanwhile."""

import math

import pytest
import trio

from nursery_patterns import Batch, Observer, Retry, Status, run_batch
from nursery_patterns.testing import InFlightGauge, cancel_at_every_checkpoint


class Flaky:
    """Fails `failures` times for each item, and takes a second for each call."""

    def __init__(self, failures=2, error=ConnectionError):
        self.failures = failures
        self.error = error
        self.calls = []

    async def __call__(self, item):
        self.calls.append((trio.current_time(), item))
        await trio.sleep(1)
        if sum(called == item for _, called in self.calls) <= self.failures:
            raise self.error(f"no {item}")
        return item


def exactly(**options):
    return Retry(
        **{"attempts": 3, "initial": 10, "maximum": 100, "jitter": 0, "budget": None, **options}
    )


async def test_an_item_is_tried_again_with_exponential_waits(autojump_clock):
    fn = Flaky(failures=3)
    report = await run_batch(fn, ["a"], retry=exactly(attempts=5))
    assert [at for at, _ in fn.calls] == [0, 11, 32, 73]
    (outcome,) = report.outcomes
    assert (outcome.value, outcome.attempts, outcome.elapsed) == ("a", 4, 74)


async def test_waits_have_a_maximum(autojump_clock):
    fn = Flaky(failures=3)
    await run_batch(fn, ["a"], retry=exactly(attempts=5, maximum=15))
    assert [at for at, _ in fn.calls] == [0, 11, 27, 43]


async def test_jitter_shortens_waits_at_random(autojump_clock):
    fn = Flaky(failures=1)
    await run_batch(fn, range(50), limit=50, retry=exactly(jitter=0.5))
    waits = {at - 1 for at, _ in fn.calls if at}
    assert len(waits) > 40
    assert min(waits) >= 5
    assert max(waits) <= 10


async def test_the_last_failure_is_the_outcome(autojump_clock):
    report = await run_batch(Flaky(failures=9), ["a"], retry=exactly())
    (outcome,) = report.outcomes
    assert (outcome.status, outcome.attempts) == (Status.FAILED, 3)
    assert isinstance(outcome.error, ConnectionError)
    assert outcome.error.__context__ is None


async def test_without_a_retry_there_is_one_attempt(autojump_clock):
    report = await run_batch(Flaky(), ["a"])
    assert report.outcomes[0].attempts == 1


async def test_others_have_the_slot_during_a_back_off(autojump_clock):
    gauge = InFlightGauge()
    fn = Flaky(failures=1)

    async def counted(item):
        with gauge:
            return await fn(item)

    limiter = trio.CapacityLimiter(1)
    report = await run_batch(counted, range(4), limiter=limiter, retry=exactly())
    assert report.complete
    assert report.values() == [0, 1, 2, 3]
    assert gauge.peak == 1
    assert [at for at, _ in fn.calls] == [0, 1, 2, 3, 11, 12, 13, 14]


@pytest.mark.parametrize("on", [ConnectionError, (OSError, KeyError)])
async def test_only_what_is_named_is_tried_again(autojump_clock, on):
    report = await run_batch(Flaky(error=ConnectionError), ["a"], retry=exactly(on=on))
    assert report.outcomes[0].attempts == 3
    report = await run_batch(Flaky(error=ValueError), ["a"], retry=exactly(on=on))
    assert report.outcomes[0].attempts == 1


async def test_a_function_says_how_long_to_wait_or_to_stop(autojump_clock):
    verdicts = iter([2.5, None, "stop"])
    fn = Flaky(failures=9)
    report = await run_batch(fn, ["a"], retry=exactly(attempts=9, on=lambda error: next(verdicts)))
    assert [at for at, _ in fn.calls] == [0, 3.5, 24.5]
    assert report.outcomes[0].status is Status.FAILED


@pytest.mark.parametrize("verdict", [-1, math.nan, "later"])
async def test_a_verdict_that_is_none_fails_the_item(autojump_clock, verdict):
    report = await run_batch(Flaky(), ["a"], retry=exactly(on=lambda error: verdict))
    assert isinstance(report.outcomes[0].error, TypeError | ValueError)


async def test_a_function_that_raises_fails_the_item_with_that(autojump_clock):
    def on(error):
        raise KeyError("my mistake")

    report = await run_batch(Flaky(), ["a", "b"], retry=exactly(on=on))
    assert [type(error) for error in report.errors()] == [KeyError, KeyError]
    (note,) = report.errors()[0].__notes__
    assert note.startswith("raised by the function `on` of Retry for ")


async def test_retries_are_bounded_to_a_share_of_what_succeeded(autojump_clock):
    fn = Flaky(failures=math.inf)
    report = await run_batch(fn, range(1_000), limit=50, retry=exactly(budget=0.2))
    assert len(fn.calls) == 1_010
    assert "the retry budget is spent (0.2 of what succeeded)" in "".join(
        report.outcomes[-1].error.__notes__
    )

    async def good_then_bad(item):
        calls.append(item)
        if item >= 200:
            raise ConnectionError

    calls = []
    await run_batch(good_then_bad, range(1_000), retry=exactly(budget=0.2))
    assert len(calls) == 1_000 + 10 + 0.2 * 200


async def test_item_timeout_is_for_an_attempt_and_total_timeout_for_all(autojump_clock):
    async def slow(item):
        await trio.sleep(100)

    retry = exactly(on=trio.TooSlowError)
    report = await run_batch(slow, ["a"], item_timeout=5, retry=retry)
    (outcome,) = report.outcomes
    assert (outcome.status, outcome.attempts, outcome.elapsed) == (
        Status.TIMED_OUT,
        3,
        5 + 10 + 5 + 20 + 5,
    )
    report = await run_batch(slow, ["a"], item_timeout=5, total_timeout=17, retry=retry)
    (outcome,) = report.outcomes
    assert (outcome.status, outcome.attempts, outcome.elapsed) == (Status.TIMED_OUT, 2, 17)
    assert str(outcome.error) == "not done within 17 s, in 2 attempts"
    assert outcome.error.__notes__ == ["attempt 1 failed: TooSlowError: not done within 5 s"]
    report = await run_batch(slow, ["a"], retry=exactly(total_timeout=3))
    assert report.outcomes[0].elapsed == 3


async def test_a_cancelled_back_off_leaves_the_item_cancelled_with_its_last_error_as_a_note(
    autojump_clock,
):
    batch = Batch(Flaky(), ["a"], retry=exactly())
    with trio.move_on_after(5):
        await batch.run()
    (outcome,) = batch.report().outcomes
    assert (outcome.status, outcome.error, outcome.attempts) == (Status.CANCELLED, None, 1)
    assert outcome.note == "attempt 1 failed: ConnectionError: no a"
    (outcome,) = (await batch.run()).outcomes
    assert (outcome.value, outcome.attempts, outcome.note) == ("a", 2, None)


async def test_an_observer_is_told_of_each_retry(autojump_clock):
    class Log(Observer):
        def __init__(self):
            self.retries = []

        def retried(self, index, item, *, attempt, error, delay):
            self.retries.append((index, item, attempt, str(error), delay))

    log = Log()
    await run_batch(Flaky(), ["a"], retry=exactly(), observer=log)
    assert log.retries == [(0, "a", 1, "no a", 10), (0, "a", 2, "no a", 20)]


async def test_on_error_cancel_sees_only_the_last_failure(autojump_clock):
    batch = Batch(Flaky(failures=1), range(3), retry=exactly(attempts=2), on_error="cancel")
    assert (await batch.run()).complete
    batch = Batch(Flaky(), [0], retry=exactly(attempts=2), on_error="cancel")
    with pytest.RaisesGroup(ConnectionError):
        await batch.run()
    assert trio.current_time() == 24


@pytest.mark.parametrize("ordered", [True, False])
async def test_streams_try_again_too(autojump_clock, ordered):
    batch = Batch(Flaky(), range(20), limit=3, retry=exactly())
    async with batch.stream(ordered=ordered) as outcomes:
        values = [outcome.value async for outcome in outcomes]
    assert (values if ordered else sorted(values)) == list(range(20))


@pytest.mark.parametrize("stream", [False, True])
def test_wherever_it_is_cut_items_are_conserved(stream):
    async def scenario(probe):
        fn = Flaky(failures=1)
        limiter = probe.watch(trio.CapacityLimiter(1))
        batch = Batch(fn, range(3), limiter=limiter, retry=exactly(), item_timeout=5)
        probe.watch(batch)
        if not stream:
            await batch.run()
        else:
            async with batch.stream(retain=True) as outcomes:
                async for _ in outcomes:
                    pass
        probe.kept["batch"] = batch

    cancel_at_every_checkpoint(scenario)


# --- a single call --------------------------------------------------------------------------------


async def test_a_single_call_is_tried_again(autojump_clock):
    calls = []

    @exactly(on=ConnectionError)
    async def fetch(url, *, times):
        """Fetches."""
        calls.append(url)
        if len(calls) < times:
            raise ConnectionError
        return url

    assert fetch.__doc__ == "Fetches."
    assert await fetch("a", times=3) == "a"
    assert trio.current_time() == 30
    calls.clear()
    with pytest.raises(ConnectionError):
        await fetch("a", times=4)


async def test_a_single_call_has_a_total_time(autojump_clock):
    @exactly(total_timeout=15)
    async def fetch():
        await trio.sleep(1)
        raise ConnectionError("refused")

    with pytest.raises(trio.TooSlowError, match="not done within 15 s, in 2 attempts") as caught:
        await fetch()
    assert caught.value.__notes__ == ["attempt 2 failed: ConnectionError: refused"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attempts": 0}, "attempts must be at least 1"),
        ({"attempts": 1.5}, "attempts must be a whole number"),
        ({"initial": -1}, "initial must be at least 0 seconds"),
        ({"maximum": math.nan}, "maximum must be at least 0 seconds"),
        ({"jitter": 2}, "jitter must be from 0 and at most 1"),
        ({"budget": 1.2}, "budget must be above 0 and at most 1, got 1.2: write Retry"),
        ({"budget": 0}, "budget must be above 0 and at most 1"),
        ({"budget": "0.2"}, "budget must be a number from 0 to 1"),
        ({"total_timeout": 0}, "total_timeout must be above 0 seconds"),
        ({"on": 503}, "on must be an exception type"),
        ({"on": trio.Cancelled}, "Cancelled and KeyboardInterrupt are never tried again"),
        ({"on": ()}, "on must be an exception type"),
    ],
)
def test_a_policy_that_is_none_is_refused(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Retry(**options)


def test_a_plain_function_is_no_call_to_try_again():
    def plain():
        pass

    with pytest.raises(TypeError, match="expected an async function, got the plain function"):
        Retry()(plain)
    with pytest.raises(TypeError, match="retry must be a Retry, got 3"):
        Batch(Flaky(), [], retry=3)
