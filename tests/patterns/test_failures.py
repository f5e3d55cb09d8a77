"""What becomes of a failure of one item: in the report, at the end of a run, and in a cut."""

import pytest
import trio

from nursery_patterns import Batch, Counts, TokenBucket, run_batch
from tests.support.items import statuses

# --- reported ------------------------------------------------------------------------------------


async def test_raise_errors_groups_the_failures_and_notes_their_items(autojump_clock):
    async def fn(i):
        await trio.sleep(i)
        if i % 2:
            raise ValueError(i)

    report = await run_batch(fn, range(4), item_timeout=2.5)
    with pytest.RaisesGroup(ValueError, trio.TooSlowError) as caught:
        report.raise_errors()
    assert caught.value.message == "2 of 4 items failed"
    assert [e.__notes__ for e in caught.value.exceptions] == [["item 1: 1"], ["item 3: 3"]]
    with pytest.RaisesGroup(ValueError, trio.TooSlowError) as again:
        report.raise_errors()
    assert again.value.exceptions[0].__notes__ == ["item 1: 1"]


async def test_an_error_that_is_false_as_a_condition_is_raised_with_the_others():
    class NothingWrongError(Exception):
        def __len__(self):
            return 0

    async def fn(item):
        raise NothingWrongError

    with pytest.RaisesGroup(NothingWrongError):
        (await run_batch(fn, [1])).raise_errors()


# --- ending the run ------------------------------------------------------------------------------


async def test_a_failure_with_on_error_cancel_keeps_finished_outcomes_and_can_be_resumed(
    autojump_clock,
):
    async def fn(i):
        await trio.sleep(i)
        if i == 2.5:
            raise ValueError("two and a half")
        return i

    batch = Batch(fn, [1, 2.5, 3, 1], limit=3, on_error="cancel")
    with pytest.RaisesGroup(ValueError):
        await batch.run()
    assert statuses(batch.report()) == ["succeeded", "failed", "cancelled", "succeeded"]
    report = await batch.run()
    assert statuses(report) == ["succeeded", "failed", "succeeded", "succeeded"]


async def test_nothing_is_started_after_the_first_failure():
    started = []

    async def fn(i):
        started.append(i)
        await trio.lowlevel.checkpoint()
        raise ValueError(i)

    with pytest.RaisesGroup(ValueError):
        await Batch(fn, range(10), limit=1, on_error="cancel").run()
    assert started == [0]


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("capacity", ["own", "shared", "paced"])
@pytest.mark.parametrize("turns", range(5))
async def test_nothing_is_started_after_the_first_failure_however_many_are_woken_with_it(
    autojump_clock, waits, capacity, turns
):
    options = {
        "own": {},
        "shared": {"limiter": trio.CapacityLimiter(3)},
        "paced": {"bucket": TokenBucket(rate=1000, capacity=1000)},
    }[capacity]
    for _ in range(20):
        events = [trio.Event() for _ in range(4)]
        log = []

        async def fn(item, log=log, events=events):
            log.append(item)
            if waits or item < 4:
                await events[item % 4].wait()
            if item == 0:
                log.append("failed")
                raise ValueError

        async def wake(events=events):
            await trio.sleep(1)
            events[1].set()
            events[2].set()
            for _ in range(turns):
                await trio.lowlevel.cancel_shielded_checkpoint()
            events[0].set()
            events[3].set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wake)
            with pytest.RaisesGroup(ValueError):
                await Batch(fn, range(1_000), limit=4, on_error="cancel", **options).run()
        assert log[-1] == "failed"


# --- while an item is cut ------------------------------------------------------------------------


async def fails_while_it_is_cut(i):
    """Has a nursery of its own, in which a failure and the cancel come out together."""
    if i:
        return i
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("the clean-up failed")


async def test_an_item_that_fails_while_it_is_cut_is_failed_and_the_cancel_goes_on(
    autojump_clock,
):
    batch = Batch(fails_while_it_is_cut, [1, 2, 0, 0, 3], limit=2)
    with trio.move_on_after(1) as scope:
        await batch.run()
    assert scope.cancelled_caught
    report = batch.report()
    assert statuses(report) == ["succeeded"] * 2 + ["failed"] * 2 + ["not_started"]
    for outcome in report.outcomes[2:4]:
        assert outcome.error.__class__ is ExceptionGroup
        assert str(outcome.error.exceptions) == "(ValueError('the clean-up failed'),)"
    assert batch.limiter.borrowed_tokens == 0
    resumed = await batch.run()
    assert resumed.counts.failed == 2
    assert resumed.counts.succeeded == 3


async def test_such_a_failure_reaches_the_consumer_of_a_stream_and_the_report(autojump_clock):
    batch = Batch(fails_while_it_is_cut, [1, 0], limit=2)
    with trio.move_on_after(1):
        async with batch.stream(retain=True) as outcomes:
            async for outcome in outcomes:
                assert outcome.value == 1
    assert batch.report().counts == Counts(total=2, succeeded=1, failed=1)


async def test_such_a_failure_leaves_a_run_that_is_to_end_with_the_first_one(autojump_clock):
    batch = Batch(fails_while_it_is_cut, [0, 0], limit=2, on_error="cancel")
    with pytest.raises(ExceptionGroup) as raised:
        with trio.move_on_after(1):
            await batch.run()
    assert [str(group.exceptions) for group in raised.value.exceptions] == [
        "(ValueError('the clean-up failed'),)"
    ] * 2
    assert batch.report().counts.failed == 2


async def test_a_nursery_of_an_item_that_is_only_cut_is_no_failure(autojump_clock):
    async def fn(_):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(trio.sleep_forever)

    report = await run_batch(fn, range(3), limit=2, timeout=1)
    assert report.counts == Counts(total=3, cancelled=2, not_started=1)


class OnlyFailures(BaseExceptionGroup):
    """Says that it may hold any exception, and holds nothing but failures."""

    def derive(self, excs):
        return OnlyFailures(self.message, excs)


@pytest.mark.parametrize("on_error", ["collect", "cancel"])
async def test_a_group_of_nothing_but_failures_is_one_whatever_its_class(on_error):
    async def fn(_):
        raise OnlyFailures("odd", [ValueError("one")])

    batch = Batch(fn, range(3), limit=1, on_error=on_error)
    if on_error == "collect":
        assert (await batch.run()).counts == Counts(total=3, failed=3)
    else:
        with pytest.raises(BaseExceptionGroup) as raised:
            await batch.run()
        assert raised.group_contains(ValueError)
        assert batch.report().counts == Counts(total=3, failed=1, not_started=2)


# --- taken apart ---------------------------------------------------------------------------------


class Unspeakable:
    def __repr__(self):
        raise RuntimeError("no repr")


async def test_an_item_whose_repr_raises_does_not_hide_its_error():
    async def fn(item):
        raise ValueError

    report = await run_batch(fn, [Unspeakable(), "x" * 1_000])
    with pytest.RaisesGroup(ValueError, ValueError) as caught:
        report.raise_errors()
    first, second = (e.__notes__[0] for e in caught.value.exceptions)
    assert first == "item 0: <Unspeakable whose repr raises RuntimeError>"
    assert second.startswith("item 1: 'xxx")
    assert len(second) < 220


async def test_a_lone_error_can_be_raised_as_itself(autojump_clock):
    async def fn(item):
        if item < 1:
            raise ValueError(item)

    with pytest.raises(ValueError, match="0"):
        (await run_batch(fn, range(3))).raise_errors(unwrap=True)
    with pytest.RaisesGroup(ValueError, ValueError):
        (await run_batch(fn, [0, -1])).raise_errors(unwrap=True)
    (await run_batch(fn, [1])).raise_errors(unwrap=True)


async def test_an_outcome_is_unwrapped_to_its_value_or_its_error(autojump_clock):
    async def fn(item):
        await trio.sleep(item)
        if item == 1:
            raise ValueError("one")
        return item

    report = await run_batch(fn, [0, 1, 5, 5, 5], limit=4, item_timeout=3, timeout=2)
    assert report.outcomes[0].unwrap() == 0
    with pytest.raises(ValueError, match="one"):
        report.outcomes[1].unwrap()
    with pytest.raises(RuntimeError, match="item 2 has no value: it is cancelled"):
        report.outcomes[2].unwrap()
    late = await run_batch(fn, [5], item_timeout=3)
    with pytest.raises(trio.TooSlowError, match="not done within 3 s"):
        late.outcomes[0].unwrap()
