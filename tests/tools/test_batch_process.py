"""One call of a batch: what it answers, what it refuses, what it never does twice."""

import os
import threading

import pytest
import trio

from tests.support.followed_operations import calling, nap_server, server_with, total
from tests.support.servers_in_memory import call_as, connected, status_of, values_of
from trio_tools.operations.operation import Operation
from trio_tools.server import create_server
from trio_tools.settings import Settings


async def test_results_come_in_input_order_and_in_the_agreed_fields(autojump_clock, era):
    server, _ = nap_server()
    async with calling(server, era) as call:
        data = (await call("batch_process", operation="nap", items=[3, 1, 2]))["data"]
    assert list(data) == [
        "summary",
        "counts",
        "complete",
        "results",
        "errors",
        "timing",
        "operation_id",
    ]
    assert values_of(data) == [3, 1, 2]
    assert data["errors"] is None
    assert data["complete"]
    assert list(data["timing"]) == ["elapsed_seconds", "timeout_seconds", "headroom_seconds"]
    assert data["timing"] == {
        "elapsed_seconds": 3.0,
        "timeout_seconds": 50.0,
        "headroom_seconds": 47.0,
    }
    assert total(data["counts"]) == 3


async def test_a_deadline_answers_in_time_and_names_every_missing_item(autojump_clock, era):
    server, _ = nap_server()
    items = [1, 100, 2, 100, 3]
    async with calling(server, era) as call:
        before = trio.current_time()
        envelope = await call(
            "batch_process", operation="nap", items=items, timeout_seconds=2.5, max_concurrent=3
        )
        assert trio.current_time() == before + 2.5
    data = envelope["data"]
    assert values_of(data) == [1, 2]
    assert [error["item"] for error in data["errors"]] == [100, 100, 3]
    assert {error["error_code"] for error in data["errors"]} == {"CANCELLED"}
    assert total(data["counts"]) == 5
    assert not data["complete"]
    assert data["operation_id"] in " ".join(envelope["meta"]["warnings"])


async def test_the_same_call_with_a_known_id_does_only_what_is_missing(autojump_clock, era):
    server, trace = nap_server()
    asked = {"operation": "nap", "items": [1, 9, 2, 9, 3], "operation_id": "mine"}
    async with calling(server, era) as call:
        first = await call("batch_process", **asked, timeout_seconds=4, max_concurrent=2)
        assert values_of(first["data"]) == [1, 2]
        again = await call("batch_process", **asked)
        assert values_of(again["data"]) == [1, 9, 2, 9, 3]
        assert again["data"]["complete"]
        once_more = await call("batch_process", **asked)
    assert values_of(once_more["data"]) == [1, 9, 2, 9, 3]
    assert sorted(trace.finished) == [1, 2, 3, 9, 9]


async def test_an_id_with_other_arguments_is_refused(autojump_clock):
    server, _ = nap_server()
    async with calling(server) as call:
        await call("batch_process", operation="nap", items=[1], operation_id="mine")
        other = await call("batch_process", operation="nap", items=[2], operation_id="mine")
    assert other["data"]["error_code"] == "OPERATION_MISMATCH"
    assert other["data"]["error_type"] == "validation"


async def test_the_same_arguments_in_another_order_of_names_are_the_same(era):
    item = {"text": "a", "algorithm": "md5"}
    async with calling(server_with(), era) as call:
        asked = {"operation": "hash", "operation_id": "mine"}
        first = await call("batch_process", **asked, items=[item])
        again = await call("batch_process", **asked, items=[dict(reversed(item.items()))])
        other = await call("batch_process", **asked, items=[item | {"text": "b"}])
    assert values_of(again["data"]) == values_of(first["data"])
    assert other["data"]["error_code"] == "OPERATION_MISMATCH"


@pytest.mark.parametrize(("one", "other"), [(0, False), (1, True), (1, 1.5)])
async def test_what_only_python_takes_for_the_same_is_something_else(one, other):
    async def same(item):
        await trio.lowlevel.checkpoint()
        return item

    async with calling(server_with(same)) as call:
        asked = {"operation": "same", "operation_id": "mine"}
        await call("batch_process", **asked, items=[one])
        answer = await call("batch_process", **asked, items=[other])
    assert answer["data"]["error_code"] == "OPERATION_MISMATCH"


async def test_a_running_id_is_refused(autojump_clock):
    server, trace = nap_server()
    asked = {"operation": "nap", "items": [5], "operation_id": "mine"}
    async with calling(server) as call, trio.open_nursery() as nursery:
        nursery.start_soon(lambda: call("batch_process", **asked))
        await trio.sleep(1)
        second = await call("batch_process", **asked)
        assert second["data"]["error_code"] == "OPERATION_RUNNING"
    assert trace.begun == [5]


async def test_an_id_is_visible_to_its_owner_only(autojump_clock):
    server, trace = nap_server()
    asked = {"operation": "nap", "items": [1], "operation_id": "mine"}
    async with connected(server):
        await call_as(server, "anna", "batch_process", asked)
        for tool in ("get_operation", "cancel_operation"):
            answer = await call_as(server, "berta", tool, {"operation_id": "mine"})
            assert answer["data"]["error_type"] == "not_found"
        await call_as(server, "berta", "batch_process", asked)
    assert trace.begun == [1, 1]


async def test_ids_of_the_server_are_long_and_differ(autojump_clock):
    server, _ = nap_server()
    async with calling(server) as call:
        ids = {
            (await call("batch_process", operation="nap", items=[0]))["data"]["operation_id"]
            for _ in range(20)
        }
    assert len(ids) == 20
    assert all(len(each) >= 24 for each in ids)


async def test_an_unknown_operation_is_answered_with_the_names(era):
    server, _ = nap_server()
    async with calling(server, era) as call:
        answer = await call("batch_process", operation="nope", items=[1])
    assert answer["data"]["error_type"] == "not_found"
    assert answer["data"]["operations"] == [
        "fetch",
        "call_api",
        "hash",
        "compress",
        "query",
        "infer",
        "nap",
    ]


@pytest.mark.parametrize("operation", ["hash", "compress"])
async def test_a_plain_string_is_a_text_with_the_defaults(operation):
    async with calling(server_with()) as call:
        plain = await call("batch_process", operation=operation, items=["a", "b"])
        whole = await call("batch_process", operation=operation, items=[{"text": "a"}])
        wrong = await call("batch_process", operation=operation, items=["a", 1])
    assert values_of(plain["data"])[:1] == values_of(whole["data"])
    assert [each["index"] for each in wrong["data"]["invalid_items"]] == [1]


async def test_all_bad_items_are_named_and_none_is_run(era):
    server, trace = nap_server()
    async with calling(server, era) as call:
        answer = await call("batch_process", operation="nap", items=[1, "x", 2, None, {}])
    assert answer["data"]["error_type"] == "validation"
    assert [wrong["index"] for wrong in answer["data"]["invalid_items"]] == [1, 3, 4]
    assert answer["data"]["item_schema"]["type"] == "number"
    assert trace.begun == []


@pytest.mark.parametrize("count", [0, 1_001])
async def test_too_few_or_too_many_items_are_refused_with_the_bounds(count):
    server, trace = nap_server()
    async with calling(server) as call:
        answer = await call("batch_process", operation="nap", items=[0] * count)
    assert (answer["data"]["minimum"], answer["data"]["maximum"]) == (1, 1_000)
    assert trace.begun == []


@pytest.mark.parametrize(
    ("argument", "value"), [("max_concurrent", 51), ("timeout_seconds", 301.0)]
)
async def test_a_request_past_a_cap_names_the_cap(argument, value):
    server, _ = nap_server()
    async with calling(server) as call:
        answer = await call("batch_process", operation="nap", items=[0], **{argument: value})
    assert answer["data"]["argument"] == argument
    assert answer["data"]["maximum"] == value - 1


async def test_an_item_timeout_ends_that_item_alone(autojump_clock):
    server, _ = nap_server()
    async with calling(server) as call:
        answer = await call(
            "batch_process", operation="nap", items=[1, 9, 2], item_timeout_seconds=3
        )
    data = answer["data"]
    assert values_of(data) == [1, 2]
    assert [error["error_code"] for error in data["errors"]] == ["ITEM_TIMEOUT"]
    assert data["complete"]
    assert data["timing"]["elapsed_seconds"] == 3.0


async def test_a_defect_is_logged_once_and_its_text_kept_back(autojump_clock, caplog):
    server, _ = nap_server()
    async with calling(server) as call:
        answer = await call("batch_process", operation="nap", items=[-1])
        await call("get_operation", operation_id=answer["data"]["operation_id"])
    assert "the text of a defect" not in str(answer)
    assert answer["data"]["errors"][0]["error_code"] == "INTERNAL"
    assert len([r for r in caplog.records if r.exc_info]) == 1


async def test_a_result_that_is_no_json_value_fails_that_item():
    async def odd(item: int) -> object:
        await trio.lowlevel.checkpoint()
        return object() if item else item

    server = server_with(odd)
    async with calling(server) as call:
        answer = await call("batch_process", operation="odd", items=[0, 1])
    assert values_of(answer["data"]) == [0]
    assert answer["data"]["errors"][0]["error_code"] == "NOT_JSON"


async def test_each_operation_declares_where_it_runs():
    server = create_server(
        Settings(),
        operations=[
            Operation(name="thread", fn=thread_name, runs="thread"),
            Operation(name="process", fn=process_id, runs="process"),
        ],
    )
    async with calling(server) as call:
        threads = values_of((await call("batch_process", operation="thread", items=[1]))["data"])
        processes = values_of((await call("batch_process", operation="process", items=[1]))["data"])
    assert threads[0] != threading.current_thread().name
    assert processes[0] != os.getpid()


def thread_name(_: int) -> str:
    return threading.current_thread().name


def process_id(_: int) -> int:
    return os.getpid()


async def test_batches_share_the_limit_of_their_operation(autojump_clock):
    server, _ = nap_server(limits={"nap": {"concurrency": 2, "max_concurrency": 2}})
    async with calling(server) as call:
        before = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                asked = {"operation": "nap", "items": [1, 1]}
                nursery.start_soon(lambda asked=asked: call("batch_process", **asked))
        assert trio.current_time() == before + 2


async def test_nothing_is_left_running_after_every_kind_of_answer(autojump_clock):
    server, _ = nap_server()
    async with connected(server) as client:
        for items in ([1, 100, -1], ["x"], []):
            arguments = {"operation": "nap", "items": items, "timeout_seconds": 2}
            await client.call_tool("batch_process", arguments)
        status = await status_of(client)
    assert status["calls"] == []
    assert status["operations"] == []
    assert status["limits"]["nap"]["in_use"] == 0
