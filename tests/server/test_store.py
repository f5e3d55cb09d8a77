"""Operations outlive their calls, for a while, for their owner, and within bounds."""

from functools import partial

import pytest
import trio

from nursery_patterns import Batch
from tests.support.servers_in_memory import NAP
from trio_tools.answers.errors import InvalidArgument, NotFound, ServerOverloaded
from trio_tools.operations.item_runner import ItemRunner
from trio_tools.operations.store import MemoryStore, new_operation_id
from trio_tools.operations.stored_operation import StoredOperation


def operation(operation_id="op", owner="me", *, items=(1.0,), tool="nap_many", store=None):
    reserve = partial(store.reserve, owner) if store is not None else lambda _: None
    count = partial(store.count, owner) if store is not None else lambda _: None
    work = ItemRunner(NAP, list(items), page_bytes=10**6, reserve=reserve, count=count)
    batch = Batch(work.run, items)
    return StoredOperation(operation_id, owner, tool, list(items), work, batch)


def store_of(*, ttl=100.0, capacity=10, max_bytes=10**6):
    return MemoryStore(ttl=ttl, capacity=capacity, max_bytes=max_bytes)


def code_of(call, *arguments, error=InvalidArgument):
    with pytest.raises(error) as raised:
        call(*arguments)
    return raised.value.error_code


async def test_what_is_kept_is_found_by_its_owner_and_by_nobody_else(autojump_clock):
    store = store_of()
    mine, theirs = operation(owner="me"), operation(owner="they")
    assert store.open(mine) is mine
    assert store.open(theirs) is theirs
    assert store.find("op", "me") is mine
    assert store.find("op", "they") is theirs
    assert code_of(store.find, "op", "anyone", error=NotFound) == "UNKNOWN_OPERATION_ID"


async def test_the_same_request_under_the_same_id_goes_on_with_what_is_kept(autojump_clock):
    store = store_of()
    first = store.open(operation())
    assert store.open(operation()) is first
    assert len(store) == 1


@pytest.mark.parametrize("other", [{"items": (2.0,)}, {"tool": "another"}])
async def test_another_request_under_the_same_id_is_refused(other, autojump_clock):
    store = store_of()
    store.open(operation())
    assert code_of(store.open, operation(**other)) == "OPERATION_MISMATCH"


async def test_an_operation_is_dropped_once_nobody_has_used_it_for_that_time(autojump_clock):
    store = store_of(ttl=100)
    store.open(operation())
    await trio.sleep(100)
    store.find("op", "me")  # which is a use
    await trio.sleep(100)
    store.find("op", "me")
    await trio.sleep(100.001)
    assert code_of(store.find, "op", "me", error=NotFound) == "UNKNOWN_OPERATION_ID"
    assert len(store) == 0
    assert store.kept_bytes == 0


async def test_the_id_of_an_operation_that_is_too_old_is_free_for_another_request(autojump_clock):
    store = store_of(ttl=100)
    store.open(operation())
    await trio.sleep(100.001)
    other = operation(items=(2.0,))
    assert store.open(other) is other
    assert len(store) == 1


async def test_a_running_operation_is_kept_however_long_it_takes(autojump_clock):
    store = store_of(ttl=100)
    kept = store.open(operation())
    with kept.at_work():
        await trio.sleep(1000)
        assert store.find("op", "me") is kept
        await trio.sleep(1000)
    await trio.sleep(100)  # counted from the end of the work
    assert store.find("op", "me") is kept


async def test_the_one_unused_for_longest_makes_room(autojump_clock):
    store = store_of(capacity=2)
    for name in ("first", "second"):
        store.open(operation(name))
        await trio.sleep(1)
    store.find("first", "me")
    store.open(operation("third"))
    assert code_of(store.find, "second", "me", error=NotFound)
    assert store.find("first", "me")
    assert len(store) == 2


async def test_a_running_operation_never_makes_room(autojump_clock):
    store = store_of(capacity=1)
    kept = store.open(operation("running"))
    with kept.at_work():
        assert code_of(store.open, operation("new"), error=ServerOverloaded) == "OVERLOADED"
    assert store.open(operation("new"))


async def test_only_one_call_at_a_time_works_on_an_operation(autojump_clock):
    kept = operation()
    with kept.at_work():
        assert kept.running
        with pytest.raises(InvalidArgument) as error, kept.at_work():
            pass
    assert error.value.error_code == "OPERATION_RUNNING"
    assert not kept.running
    with kept.at_work():
        assert kept.running


async def test_running_ones_are_listed_oldest_first(autojump_clock):
    store = store_of()
    first, idle, second = (store.open(operation(name)) for name in ("a", "b", "c"))
    with second.at_work(), first.at_work():
        assert store.running() == [first, second]
    assert store.running() == []
    assert not idle.running


async def test_stop_ends_the_work_at_once_and_keeps_what_is_done(autojump_clock):
    kept = operation(items=(1.0, 50.0))
    async with trio.open_nursery() as nursery:

        async def stop_later():
            await trio.sleep(3)
            assert kept.stop() is True

        nursery.start_soon(stop_later)
        with kept.at_work() as scope, scope:
            await kept.batch.run()
    assert kept.stop() is False
    assert trio.current_time() == kept.created + 3
    assert kept.batch.report().counts.succeeded == 1


async def test_results_count_until_they_are_dropped_and_idle_ones_make_room(autojump_clock):
    store = store_of(max_bytes=2000)
    first = store.open(operation("first", store=store))
    with first.at_work():
        await first.batch.run()
    assert store.kept_bytes == first.work.size
    second = store.open(operation("second", store=store))
    store.reserve("me", 2000 - second.work.size)  # only the first can go
    assert len(store) == 1
    with second.at_work():
        assert code_of(store.reserve, "me", 1) == "RESULTS_TOO_LARGE"


def test_ids_cannot_be_guessed():
    ids = {new_operation_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(len(one) >= 24 for one in ids)
