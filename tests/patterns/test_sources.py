"""Where a batch takes its items from: what is taken, what is known of it, and how it may end."""

import contextlib
from collections import Counter
from contextlib import aclosing

import pytest
import trio

from nursery_patterns import Batch, Counts, run_batch
from tests.support.items import Recorder, sleep_and_return
from tests.support.policies import AsyncItems, IteratorItems, SizedItems

# --- what is taken -------------------------------------------------------------------------------


@pytest.mark.parametrize("items", [(), [], {}, iter([]), "", range(0)])
async def test_an_empty_source_makes_an_empty_complete_report(items):
    report = await run_batch(sleep_and_return, items)
    assert report.outcomes == ()
    assert report.counts == Counts(total=0)
    assert report.complete


class WithoutLength:
    def __len__(self):
        raise TypeError("not known yet")

    def __iter__(self):
        return iter(range(3))


class OldSequence:
    def __getitem__(self, index):
        if index > 2:
            raise IndexError
        return index


@pytest.mark.parametrize("items", [WithoutLength(), OldSequence()])
async def test_whatever_can_be_iterated_is_taken(items):
    async def same(item):
        await trio.lowlevel.checkpoint()
        return item

    assert (await run_batch(same, items)).values() == [0, 1, 2]


# --- length --------------------------------------------------------------------------------------


class SaysThree(SizedItems):
    def __len__(self):
        return 3


@pytest.mark.parametrize(("really", "taken"), [(0, 0), (2, 2), (3, 3), (5, 3)])
@pytest.mark.parametrize("look_first", [False, True])
async def test_a_source_that_lies_about_its_length_is_not_believed(
    autojump_clock, really, taken, look_first
):
    batch = Batch(sleep_and_return, SaysThree(really), limit=2)
    for _ in range(2 * look_first):
        assert len(batch.report().outcomes) == taken
    report = await batch.run()
    assert report.values() == list(range(taken))
    assert report.counts.total == taken
    assert report.complete


async def test_a_length_that_no_machine_can_hold_is_as_good_as_none(autojump_clock):
    batch = Batch(trio.sleep, range(10**20))
    with trio.move_on_after(1):
        await batch.run()
    assert batch.report().counts.total is None


async def test_the_total_is_known_once_the_source_is_exhausted(autojump_clock):
    batch = Batch(sleep_and_return, AsyncItems(3))
    assert batch.report().counts.total is None
    assert (await batch.run()).counts == Counts(total=3, succeeded=3)


async def test_a_report_leaves_a_source_of_unknown_length_alone(autojump_clock):
    items = IteratorItems(100)
    batch = Batch(sleep_and_return, items, limit=2)
    with trio.move_on_after(0):
        await batch.run()
    before = items.pulled
    assert batch.report().counts.total is None
    assert not batch.report().complete
    assert items.pulled == before <= 2


async def test_looking_at_a_report_takes_no_item_away():
    items = SizedItems(5)
    batch = Batch(sleep_and_return, items)
    assert [o.item for o in batch.report().outcomes] == [0, 1, 2, 3, 4]
    assert [o.item for o in batch.report().outcomes] == [0, 1, 2, 3, 4]
    assert (await Batch(sleep_and_return, []).run()).complete


# --- sources that raise --------------------------------------------------------------------------


class Flaky:
    """An iterator that raises once in the middle, and then goes on."""

    def __init__(self, n, raises_at):
        self.numbers = iter(range(n))
        self.raises_at = raises_at

    def __iter__(self):
        return self

    def __next__(self):
        if self.raises_at == 0:
            self.raises_at = None
            raise OSError("try again")
        if self.raises_at is not None:
            self.raises_at -= 1
        return next(self.numbers)


async def test_an_iterator_that_can_go_on_after_an_error_is_resumed(autojump_clock):
    batch = Batch(sleep_and_return, Flaky(5, raises_at=2), limit=2)
    with pytest.RaisesGroup(OSError):
        await batch.run()
    report = await batch.run()
    assert report.values() == [0, 1, 2, 3, 4]
    assert report.complete


def two_and_an_error():
    yield 0
    yield 1
    raise OSError("gone")


class SizedTwoAndAnError:
    def __len__(self):
        return 5

    def __iter__(self):
        return two_and_an_error()


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (two_and_an_error, "two_and_an_error"),
        (lambda: map(int, two_and_an_error()), "map"),
        (SizedTwoAndAnError, "two_and_an_error"),
    ],
)
@pytest.mark.parametrize("look_first", [False, True])
async def test_a_source_that_ended_by_an_error_can_never_make_complete_lie(
    autojump_clock, make, name, look_first
):
    batch = Batch(sleep_and_return, make(), limit=2)
    if look_first:
        batch.report()
    with pytest.RaisesGroup(OSError):
        await batch.run()
    for _ in range(2):
        assert not batch.report().complete
        assert batch.report().counts.total in {None, 5}
        with pytest.RaisesGroup(RuntimeError) as caught:
            await batch.run()
    assert str(caught.value.exceptions[0]) == (
        f"the source {name} was cancelled or raised while it made its next item, and has ended "
        "since, so that the rest of its items is out of reach: to resume such a batch, pass an "
        "iterator object whose own __next__ or __anext__ can be called again"
    )
    report = batch.report()
    assert report.values() in ([0, 1], [0])  # the failure may have cut an item in flight
    assert not report.complete


@pytest.mark.parametrize("kind", ["raises", "was cut"])
async def test_items_pulled_before_the_source_broke_end_and_only_the_rest_is_lost(
    autojump_clock, kind
):
    runs = Counter()

    async def fn(item):
        runs[item] += 1
        await trio.sleep(1)
        return item

    def raising():
        yield from (0, 1)
        raise OSError("page 3 is gone")

    async def cut():
        yield 0
        yield 1
        await trio.sleep(100)
        yield 2

    batch = Batch(fn, raising() if kind == "raises" else cut(), limit=4)
    with trio.move_on_after(0.5), contextlib.suppress(ExceptionGroup):
        await batch.run()
    assert batch.report().counts.succeeded == 0
    for _ in range(2):
        with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="out of reach")):
            await batch.run()
        assert batch.report().values() == [0, 1]
        assert not batch.report().complete
    assert runs[0] == 2  # once before, once again
    assert 1 <= runs[1] <= 2  # the source may have broken before it was its turn


async def test_a_stream_over_what_a_broken_source_gave_ends_and_then_says_so(autojump_clock):
    def raising():
        yield from (1, 2)
        raise OSError

    batch = Batch(trio.sleep, raising(), limit=4)
    with pytest.RaisesGroup(OSError):
        await batch.run()
    got = []
    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="out of reach")):
        async with batch.stream(ordered=True) as outcomes:
            got.extend([outcome.item async for outcome in outcomes])
    assert got == [1, 2]


# --- sources that are cut ------------------------------------------------------------------------


async def test_an_async_generator_cut_in_the_middle_of_a_pull_cannot_be_resumed(autojump_clock):
    async def slow():
        yield 0
        await trio.sleep(10)
        yield 1

    async with aclosing(slow()) as items:
        batch = Batch(sleep_and_return, items)
        with trio.move_on_after(5):
            await batch.run()
        assert batch.report().counts == Counts(total=None, succeeded=1)
        with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="out of reach")):
            await batch.run()
        assert not batch.report().complete


async def test_an_async_generator_that_waits_to_be_asked_is_resumed(autojump_clock):
    async def numbers():
        for i in range(6):
            yield i

    async with aclosing(numbers()) as items:
        batch = Batch(Recorder(2), items, limit=2)
        with trio.move_on_after(3):
            await batch.run()
        report = await batch.run()
    assert report.values() == [0, 1, 2, 3, 4, 5]
    assert report.complete


async def test_a_channel_cancelled_while_it_waits_loses_nothing(autojump_clock):
    send, receive = trio.open_memory_channel(0)

    async def feed():
        async with send:
            for i in range(4):
                await trio.sleep(2)
                await send.send(i)

    async with trio.open_nursery() as nursery, receive:
        nursery.start_soon(feed)
        batch = Batch(Recorder(0), receive)
        for deadline in (1, 3, 5, 5.5):
            with trio.move_on_at(deadline):
                await batch.run()
        report = await batch.run()
    assert report.values() == [0, 1, 2, 3]
    assert report.complete
