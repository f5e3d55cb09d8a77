"""Items wait for memory before they start, in turn over the clients, and give it back."""

import gc
import weakref

import pytest
import trio

from nursery_patterns import Batch
from tests.support.followed_operations import calling, server_with
from trio_tools.operations.memory_budget import COPIES, UNKNOWN_BYTES, MemoryAccount, MemoryBudget
from trio_tools.operations.result import Result

FIRST = COPIES * UNKNOWN_BYTES


class Kept:
    """A store as far as a budget asks it: so much is kept, and so much of it may go."""

    def __init__(self, size=0, idle=0):
        self.size = size
        self.idle = idle

    def make_room(self, _owner, most):
        freed = min(self.idle, max(0, self.size - most))
        self.size, self.idle = self.size - freed, self.idle - freed


def budget_of(items, kept=None):
    """Return a budget with room for so many items of unknown size."""
    kept = kept or Kept()
    return MemoryBudget(FIRST * items, kept=lambda: kept.size, make_room=kept.make_room)


def batch_of(budget, owner, fn, items, name="work", *, leaves_memory=True):
    account = MemoryAccount(budget, owner, name, None, leaves_memory=leaves_memory)
    return Batch(fn, items, journal=account, limit=10), account


def reserved(budget):
    statistics = budget.statistics()
    return statistics.reserved_bytes, statistics.reserved_items


async def test_no_more_items_are_in_flight_than_there_is_room_for(autojump_clock):
    budget, in_flight, most = budget_of(3), 0, 0

    async def work(_: int) -> Result:
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        await trio.sleep(1)
        in_flight -= 1
        return Result(b"x" * UNKNOWN_BYTES)

    batch, account = batch_of(budget, "anna", work, range(9))
    report = await batch.run()
    account.rest()
    assert report.counts.succeeded == 9
    assert (most, trio.current_time()) == (3, 3.0)
    assert reserved(budget) == (0, 0)
    assert budget.statistics().waits >= 2


async def test_what_items_take_is_learned_from_those_that_ended(autojump_clock):
    budget = budget_of(1)

    async def work(_: int) -> Result:
        await trio.sleep(1)
        return Result(b"x" * 10)

    batch, account = batch_of(budget, "anna", work, range(11))
    await batch.run()
    account.rest()
    assert trio.current_time() == 2.0  # one alone, and then ten at once
    assert reserved(budget) == (0, 0)


async def test_one_item_runs_whatever_is_kept():
    budget = budget_of(1, Kept(size=100 * FIRST))

    async def work(_: int) -> Result:
        await trio.lowlevel.checkpoint()
        return Result(b"x" * UNKNOWN_BYTES)

    batch, account = batch_of(budget, "anna", work, range(5))
    with trio.fail_after(10):
        assert (await batch.run()).complete
    account.rest()
    assert reserved(budget) == (0, 0)


async def test_results_that_cannot_leave_memory_end_the_call_that_has_them(autojump_clock):
    budget = budget_of(1, Kept(size=100 * FIRST))

    async def work(_: int) -> Result:
        await trio.sleep(1)
        return Result(b"x" * UNKNOWN_BYTES)

    batch, account = batch_of(budget, "anna", work, range(5), leaves_memory=False)
    with trio.CancelScope() as scope:
        account.when_full = scope.cancel
        await batch.run()
    account.rest()
    counts = batch.report().counts
    assert (counts.succeeded, counts.not_started, counts.cancelled) == (1, 4, 0)
    assert trio.current_time() == 1.0  # it does not wait for what cannot come
    assert reserved(budget) == (0, 0)


async def test_an_item_waits_while_results_are_on_their_way_to_the_disk(autojump_clock):
    kept, on_the_way = Kept(size=100 * FIRST), True
    budget = MemoryBudget(
        FIRST,
        kept=lambda: kept.size,
        make_room=kept.make_room,
        will_let_go=lambda: on_the_way,
    )

    async def work(_: int) -> Result:
        await trio.sleep(1)
        return Result(b"x")

    batch, account = batch_of(budget, "anna", work, range(2))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(batch.run)
        await trio.sleep(5)
        assert batch.counts.in_flight == 0
        on_the_way = False
        budget.serve()  # as after a commit
    account.rest()
    assert batch.report().complete
    assert reserved(budget) == (0, 0)


async def test_idle_results_make_room_before_an_item_waits(autojump_clock):
    kept = Kept(size=2 * FIRST, idle=2 * FIRST)
    budget = budget_of(2, kept)

    async def work(_: int) -> Result:
        await trio.sleep(1)
        return Result(b"x" * UNKNOWN_BYTES)

    batch, account = batch_of(budget, "anna", work, range(3))
    await batch.run()
    account.rest()
    assert kept.size == FIRST  # as much as goes beside one item
    kept.size = 0
    budget.serve()
    assert reserved(budget) == (0, 0)


async def test_the_turn_goes_round_the_clients(autojump_clock):
    budget, order = budget_of(1), []

    async def run(owner, count):
        async def work(item: str) -> Result:
            order.append(item)
            await trio.sleep(1)
            return Result(b"x" * UNKNOWN_BYTES)

        batch, account = batch_of(budget, owner, work, [f"{owner}{n}" for n in range(count)])
        await batch.run()
        account.rest()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, "a", 3)
        await trio.sleep(0.1)
        nursery.start_soon(run, "a", 3)
        await trio.sleep(0.1)
        nursery.start_soon(run, "b", 3)
    owners = [item[0] for item in order]
    assert owners == ["a", "a", "b", "a", "b", "a", "b", "a", "a"]
    assert reserved(budget) == (0, 0)


@pytest.mark.parametrize("seconds", [0.25, 0.5, 0.75, 1.5])
async def test_a_cancelled_batch_gives_back_what_it_had_and_delays_nobody(autojump_clock, seconds):
    budget = budget_of(1)

    async def work(_: int) -> Result:
        await trio.sleep(1)
        return Result(b"x" * UNKNOWN_BYTES)

    async def cut():
        batch, account = batch_of(budget, "a", work, range(5))
        with trio.move_on_after(seconds):
            await batch.run()
        account.rest()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cut)
        await trio.sleep(0.1)
        nursery.start_soon(cut)
        await trio.sleep(0.1)
        batch, account = batch_of(budget, "b", work, range(2))
        assert (await batch.run()).complete
        account.rest()
    assert reserved(budget) == (0, 0)
    assert trio.current_time() <= seconds + 3


async def test_items_of_a_call_wait_and_none_fails_and_the_status_tells(autojump_clock):
    in_flight = most = 0

    async def page(_: int) -> str:
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        await trio.sleep(1)
        in_flight -= 1
        return "x" * (UNKNOWN_BYTES - 2)

    server = server_with(page, max_memory_bytes=4 * FIRST, state={"url": "memory"})
    async with calling(server) as call:
        answer = await call("batch_process", operation="page", items=[*range(10)])
        assert most == 3  # beside what the items themselves take there is no room for a fourth
        assert answer["data"]["counts"]["succeeded"] == 10
        memory = (await call("get_concurrency_status"))["data"]["memory"]
    assert (memory["reserved_bytes"], memory["reserved_items"], memory["waiting"]) == (0, 0, 0)
    assert memory["max_bytes"] == 4 * FIRST
    assert memory["kept_bytes"] > 10 * UNKNOWN_BYTES
    assert memory["waits"]


async def test_a_dropped_operation_is_freed_without_the_collector(tmp_path):
    async def work(item: int) -> int:
        await trio.lowlevel.checkpoint()
        return item

    state = {"url": f"sqlite:///{tmp_path}/operations.db"}
    server = server_with(work, max_operations=1, state=state)
    gc.collect()
    gc.disable()
    try:
        async with calling(server) as call:
            await call("batch_process", operation="work", items=[1])
            (kept,) = server.state.store.operations()
            batch = weakref.ref(kept.batch)
            del kept
            await call("batch_process", operation="work", items=[2])
            assert batch() is None
    finally:
        gc.enable()
