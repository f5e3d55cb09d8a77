"""The request context: inherited by whatever a request starts, and shown in its logs."""

import logging

import pytest
import trio

from nursery_patterns import (
    RequestLogFilter,
    current_request,
    request_context,
    run_batch,
    run_in_thread,
)


async def test_a_context_names_the_request_and_counts_its_seconds(autojump_clock):
    assert current_request() is None
    with request_context("r-1", "alice") as context:
        assert current_request() is context
        await trio.sleep(2)
        assert (context.request_id, context.client_id, context.elapsed) == ("r-1", "alice", 2)
    assert current_request() is None


async def test_an_id_is_made_up_if_none_is_given():
    with request_context() as first, request_context() as second:
        assert len(first.request_id) == len(second.request_id) == 32
        assert first.request_id != second.request_id
        assert first.client_id == "anonymous"


async def test_contexts_nest_and_an_error_ends_them():
    with request_context("outer"):
        with pytest.raises(KeyError), request_context("inner"):
            assert current_request().request_id == "inner"
            raise KeyError
        assert current_request().request_id == "outer"


async def test_child_tasks_items_and_threads_inherit_it(autojump_clock):
    seen = {}

    def look():
        return current_request().request_id

    async def child():
        seen["child"] = look()

    async def item(_):
        return look()

    with request_context("r-1"):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
        seen["item"] = (await run_batch(item, [1])).values()[0]
        seen["thread"] = await run_in_thread(look)
    assert seen == {"child": "r-1", "item": "r-1", "thread": "r-1"}


async def test_requests_side_by_side_do_not_see_each_other(autojump_clock):
    seen = []

    async def serve(name, seconds):
        with request_context(name):
            await trio.sleep(seconds)
            seen.append((name, current_request().request_id))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, "a", 2)
        nursery.start_soon(serve, "b", 1)
    assert seen == [("b", "b"), ("a", "a")]


async def test_the_filter_adds_the_three_to_every_record(autojump_clock):
    def filtered():
        record = logging.makeLogRecord({"msg": "hello"})
        assert RequestLogFilter().filter(record) is True
        return record.request_id, record.client_id, record.elapsed

    assert filtered() == ("-", "-", 0)
    with request_context("r-1", "alice"):
        await trio.sleep(1.5)
        assert filtered() == ("r-1", "alice", 1.5)
