"""Kept operations: for how long, how many, how large."""

from functools import partial

import pytest
import trio

from nursery_patterns import Batch
from tests.support.followed_operations import nap_server
from tests.support.servers_in_memory import call_as, connected
from trio_tools.answers.errors import InvalidArgument, NotFound, ServerOverloaded
from trio_tools.operations.item_runner import ItemRunner
from trio_tools.operations.operation import Operation
from trio_tools.operations.store import MemoryStore
from trio_tools.operations.stored_operation import StoredOperation


async def double(text: str) -> str:
    await trio.lowlevel.checkpoint()
    return text * 2


def make(store, name, items=("a",), owner="anna"):
    work = ItemRunner(
        Operation(name="double", fn=double),
        items,
        page_bytes=10**6,
        reserve=partial(store.reserve, owner),
        count=partial(store.count, owner),
    )
    return StoredOperation(name, owner, "tool", list(items), work, Batch(work.run, items))


def store_of(*, ttl=100.0, capacity=3, max_bytes=10**6):
    return MemoryStore(ttl=ttl, capacity=capacity, max_bytes=max_bytes)


async def test_an_operation_is_dropped_when_unused_for_its_time(autojump_clock):
    store = store_of(ttl=10)
    kept = store.open(make(store, "one"))
    await trio.sleep(9)
    assert store.find("one", "anna") is kept
    await trio.sleep(10)
    assert store.find("one", "anna") is kept
    await trio.sleep(10.1)
    with pytest.raises(NotFound):
        store.find("one", "anna")
    assert store.kept_bytes == 0


async def test_a_running_operation_never_grows_old(autojump_clock):
    store = store_of(ttl=10)
    kept = store.open(make(store, "one"))
    with kept.at_work():
        await trio.sleep(1_000)
        assert store.find("one", "anna") is kept


async def test_the_one_unused_for_longest_makes_room(autojump_clock):
    store = store_of(capacity=2)
    for name in ("one", "two"):
        store.open(make(store, name))
        await trio.sleep(1)
    store.find("one", "anna")
    store.open(make(store, "three"))
    assert len(store) == 2
    store.find("one", "anna")
    with pytest.raises(NotFound):
        store.find("two", "anna")


async def test_with_only_running_ones_there_is_no_room(autojump_clock):
    store = store_of(capacity=1)
    with (
        store.open(make(store, "one")).at_work(),
        pytest.raises(ServerOverloaded, match="wait for one to end"),
    ):
        store.open(make(store, "two"))


async def test_results_push_out_idle_operations_by_their_size(autojump_clock):
    store = store_of(capacity=100, max_bytes=10_000)
    for name in ("one", "two"):
        kept = store.open(make(store, name, ["x" * 800] * 2))
        await kept.batch.run()
        assert store.kept_bytes <= 10_000
        await trio.sleep(1)
    big = store.open(make(store, "big", ["x" * 1_500]))
    with big.at_work():
        await big.batch.run()
    assert big.batch.report().complete
    assert store.kept_bytes <= 10_000
    with pytest.raises(NotFound):
        store.find("one", "anna")


async def test_a_finished_result_is_kept_whatever_it_takes():
    store = store_of(max_bytes=6_000)
    big = store.open(make(store, "big", ["a", "x" * 2_000, "b"]))
    with big.at_work():
        report = await big.batch.run()
    assert report.counts.succeeded == 3
    assert store.kept_bytes == big.work.size > 6_000


async def test_items_without_room_are_refused_at_once():
    store = store_of(max_bytes=1_000)
    with pytest.raises(InvalidArgument, match="and the server keeps 1,000 in all"):
        store.open(make(store, "big", ["x" * 2_000]))
    assert len(store) == 0
    assert store.kept_bytes == 0


async def test_items_larger_than_the_store_push_out_nothing():
    store = store_of(max_bytes=10_000)
    small = store.open(make(store, "small"))
    await small.batch.run()
    with pytest.raises(InvalidArgument):
        store.open(make(store, "bigger", ["x" * 11_000]))
    assert store.find("small", "anna") is small


def kept_of(store, owner, names):
    """Return those of the names that are still kept for that owner, in order."""
    return [name for name in names if (owner, name) in store._kept]


async def test_whoever_keeps_most_makes_room_and_nobody_pushes_out_the_others(autojump_clock):
    store = store_of(capacity=6)
    store.open(make(store, "first", owner="berta"))
    store.open(make(store, "second", owner="berta"))
    names = [f"n{number}" for number in range(20)]
    for name in names:
        await trio.sleep(1)
        store.open(make(store, name, owner="anna"))
    assert kept_of(store, "berta", ["first", "second"]) == ["first", "second"]
    assert kept_of(store, "anna", names) == ["n16", "n17", "n18", "n19"]
    for name in ("one", "two"):
        await trio.sleep(1)
        store.open(make(store, name, owner="carla"))
    assert kept_of(store, "berta", ["first", "second"]) == ["first", "second"]
    assert kept_of(store, "anna", names) == ["n18", "n19"]
    await trio.sleep(1)
    store.open(make(store, "three", owner="carla"))  # all have two: the oldest of them all goes
    assert kept_of(store, "berta", ["first", "second"]) == ["second"]


async def test_running_operations_push_out_nobody_who_keeps_less(autojump_clock):
    store = store_of(capacity=3)
    store.open(make(store, "kept", owner="berta"))
    with (
        store.open(make(store, "one")).at_work(),
        store.open(make(store, "two")).at_work(),
        pytest.raises(ServerOverloaded, match="of clients that keep fewer"),
    ):
        store.open(make(store, "three"))
    assert kept_of(store, "berta", ["kept"]) == ["kept"]


async def test_results_push_out_only_what_is_of_owners_who_keep_as_much(autojump_clock):
    store = store_of(capacity=100, max_bytes=12_000)
    small = store.open(make(store, "small", ["x" * 100], owner="berta"))
    await small.batch.run()
    old = store.open(make(store, "old", ["x" * 500] * 2))
    await old.batch.run()
    await trio.sleep(1)
    big = store.open(make(store, "big", ["x" * 1_000] * 5))
    with big.at_work():
        report = await big.batch.run()
        with pytest.raises(InvalidArgument, match="of clients that keep less"):
            store.reserve("anna", 5_000)
    assert kept_of(store, "anna", ["old", "big"]) == ["big"]
    assert kept_of(store, "berta", ["small"]) == ["small"]
    assert report.complete
    assert store.find("small", "berta").batch.report().complete


async def test_a_client_whose_operations_fill_the_store_leaves_those_of_others(autojump_clock):
    server, _ = nap_server(max_operations=3)
    asked = {"operation": "nap", "items": [1]}
    async with connected(server):
        mine = await call_as(server, "berta", "batch_process", asked)
        for _ in range(9):
            await call_as(server, "anna", "batch_process", asked)
        read = {"operation_id": mine["data"]["operation_id"]}
        assert (await call_as(server, "berta", "get_operation", read))["success"]
