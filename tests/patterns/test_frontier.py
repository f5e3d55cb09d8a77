"""A source that grows while it is worked on, ends by itself, and loses nothing that was added."""

import math

import pytest
import trio

from nursery_patterns import Batch, Frontier, FrontierFull, Status, run_batch
from nursery_patterns.testing import cancel_at_every_checkpoint


def tree(depth):
    """An item function over paths of a binary tree, that adds its children."""

    async def visit(path):
        await trio.sleep(1)
        if len(path) < depth:
            frontier.add((*path, 0))
            frontier.add((*path, 1))
        return len(path)

    frontier = Frontier([()])
    return visit, frontier


@pytest.mark.parametrize("limit", [1, 3, 100])
async def test_it_is_exhausted_when_nothing_waits_and_nothing_can_add(autojump_clock, limit):
    visit, frontier = tree(4)
    report = await run_batch(visit, frontier, limit=limit)
    assert report.complete
    assert sorted(report.values()) == [0, 1, 1, *[2] * 4, *[3] * 8, *[4] * 16]
    assert trio.current_time() == {1: 31, 3: 12, 100: 5}[limit]
    assert len(frontier) == 0


@pytest.mark.parametrize("ordered", [True, False])
async def test_it_is_streamed_to_its_end(autojump_clock, ordered):
    visit, frontier = tree(3)
    async with Batch(visit, frontier, limit=4).stream(ordered=ordered) as outcomes:
        assert len([outcome async for outcome in outcomes]) == 15


async def test_an_empty_one_is_at_its_end():
    report = await run_batch(tree(1)[0], Frontier())
    assert report.complete
    assert report.counts.total == 0


async def test_each_key_is_added_once(autojump_clock):
    async def fn(url):
        added.append((frontier.add(url.upper()), frontier.add("B"), frontier.add("b")))

    added = []
    frontier = Frontier(["a", "A"], key=str.lower)
    report = await run_batch(fn, frontier, limit=1)
    assert [o.item for o in report.outcomes] == ["a", "B"]
    assert added == [(False, True, False), (False, False, False)]


async def test_the_lowest_priority_is_next_and_first_in_first_out_among_equals():
    async def fn(item):
        if item == 9:
            for more in (5.5, 3, 5, 3.5):
                frontier.add(more)
        order.append(item)

    order = []
    frontier = Frontier([7, 9, 8], priority=lambda item: -9 if item == 9 else int(item))
    await run_batch(fn, frontier, limit=1)
    assert order == [9, 3, 3.5, 5.5, 5, 7, 8]


async def test_a_report_names_what_waits(autojump_clock):
    visit, frontier = tree(3)
    batch = Batch(visit, frontier, limit=2)
    with trio.move_on_after(2.5):
        await batch.run()
    report = batch.report()
    assert report.counts.total is None
    assert not report.complete
    statuses = [o.status for o in report.outcomes]
    assert statuses.count(Status.SUCCEEDED) == 3
    assert statuses.count(Status.CANCELLED) == 2
    assert statuses.count(Status.NOT_STARTED) == 2 == report.counts.not_started
    report = await batch.run()
    assert report.complete
    assert report.counts.succeeded == 15


async def test_a_failing_item_ends_like_any_other(autojump_clock):
    async def fn(item):
        if item < 5:
            frontier.add(item + 1)
        raise ValueError(item)

    frontier = Frontier([0])
    report = await run_batch(fn, frontier)
    assert report.counts.failed == 6
    assert report.complete


async def test_it_refuses_to_grow_past_its_bound(autojump_clock):
    async def fn(item):
        for i in range(3):
            frontier.add(10 * item + i)

    frontier = Frontier([1], max_items=6)
    report = await run_batch(fn, frontier, limit=1)
    assert report.counts.total == 6
    assert report.complete
    message = "cannot add 102: 6 items were added, which is max_items; write Frontier(items, max"
    assert message in str(report.errors()[0])
    assert {type(error) for error in report.errors()} == {FrontierFull}
    with pytest.raises(FrontierFull):
        Frontier(range(3), max_items=2)


async def test_adding_at_the_wrong_time_is_answered_with_the_right_call(autojump_clock):
    frontier = Frontier([1])
    with pytest.raises(RuntimeError, match=r"no batch runs .* as in Frontier\(\[item\]\)"):
        frontier.add(2)

    async def fn(item):
        await trio.to_thread.run_sync(frontier.add, 5)

    report = await run_batch(fn, frontier)
    with pytest.raises(RuntimeError, match=r"write trio.from_thread.run_sync\(frontier.add, item"):
        report.outcomes[0].unwrap()
    with pytest.raises(RuntimeError, match="the batch over this frontier has ended"):
        frontier.add(3)


async def test_a_thread_adds_through_trio(autojump_clock):
    async def fn(item):
        if item == 1:
            call = trio.from_thread.run_sync
            return await trio.to_thread.run_sync(lambda: call(frontier.add, 5))
        return item

    frontier = Frontier([1])
    assert (await run_batch(fn, frontier)).values() == [True, 5]


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"items": [[]]}, TypeError, r"the key \[\] of an item cannot be hashed: write Frontier"),
        ({"items": [1], "key": lambda i: {}}, TypeError, "the key {} of an item cannot be hashed"),
        (
            {"items": [1], "priority": lambda i: math.nan},
            ValueError,
            "got NaN for 1: write Frontier",
        ),
        ({"items": [1], "priority": str}, TypeError, "priority must return a number, got '1'"),
        ({"max_items": 0}, ValueError, "max_items must be at least 1"),
        ({"key": 5}, TypeError, "key must be a function"),
    ],
)
def test_bad_input_is_refused(options, kind, message):
    with pytest.raises(kind, match=message):
        Frontier(**options)


def test_wherever_it_is_cut_everything_that_was_added_is_done_in_the_end():
    async def scenario(probe):
        visit, frontier = tree(2)
        probe.kept["batch"] = batch = probe.watch(Batch(visit, frontier, limit=2))
        await batch.run()

    async def after(probe):
        report = await probe.kept["batch"].run()
        # An item that is run again adds what it added before, which the frontier knows.
        assert sorted(report.values()) == [0, 1, 1, 2, 2, 2, 2]
        assert report.complete

    cancel_at_every_checkpoint(scenario, after=after)


def test_it_belongs_to_one_batch():
    frontier = Frontier(["a"])
    Batch(trio.sleep, frontier)
    with pytest.raises(ValueError, match="make a Frontier for each batch"):
        Batch(trio.sleep, frontier)
