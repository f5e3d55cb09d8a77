"""Going on costs one argument: what is missing is done, and on demand what failed."""

import math

import trio

from tests.support.followed_operations import Trace, calling, nap_server, server_with
from tests.support.servers_in_memory import values_of
from trio_tools.operations.operation import Operation


async def test_an_operation_id_alone_goes_on_with_what_is_missing(autojump_clock, era):
    server, trace = nap_server()
    async with calling(server, era) as call:
        asked = {"operation": "nap", "items": [1, 9, 2]}
        cut = await call("batch_process", **asked, timeout_seconds=5)
        assert values_of(cut["data"]) == [1, 2]
        whole = await call("batch_process", operation_id=cut["data"]["operation_id"])
    assert values_of(whole["data"]) == [1, 9, 2]
    assert sorted(trace.begun) == [1, 2, 9, 9]


async def test_an_id_of_another_tool_or_of_nobody_is_told(autojump_clock):
    server, _ = nap_server()
    async with calling(server) as call:
        done = await call("batch_process", operation="nap", items=[1])
        other = await call("fetch_urls", operation_id=done["data"]["operation_id"])
        nobodys = await call("fetch_urls", operation_id="nobody's")
        neither = await call("fetch_urls")
    assert other["data"]["error_code"] == "OPERATION_MISMATCH"
    assert nobodys["data"]["error_code"] == "UNKNOWN_OPERATION_ID"
    assert "urls is missing" in neither["error"]
    assert "operation_id" in neither["error"]


async def test_failed_items_are_run_again_under_the_same_id_if_asked(autojump_clock, era):
    trace, broken = Trace(), [True]

    async def flaky(seconds: float) -> float:
        if seconds == 2 and broken[0]:
            raise ZeroDivisionError
        return await trace.nap(seconds)

    server = server_with(Operation(name="flaky", fn=flaky))
    async with calling(server, era) as call:
        first = await call(
            "batch_process", operation="flaky", items=[1, 2, 90], item_timeout_seconds=10
        )
        mine = {"operation_id": first["data"]["operation_id"]}
        assert first["data"]["counts"]["failed"] == first["data"]["counts"]["timed_out"] == 1
        same = await call("batch_process", **mine)
        assert same["data"]["counts"] == first["data"]["counts"]
        broken[0] = False
        again = await call("batch_process", **mine, retry="failed", timeout_seconds=200)
        read = await call("get_operation", **mine)
    assert values_of(again["data"]) == [1, 2, 90]
    assert again["data"]["complete"]
    assert [outcome["value"] for outcome in read["data"]["outcomes"]] == [1, 2, 90]
    assert sorted(trace.begun) == [1, 2, 90, 90]


async def test_a_chunk_of_a_dataset_goes_on_and_is_retried_by_its_id_alone(tmp_path):
    broken, hanging = [2], [3]

    async def flaky(n: int) -> int:
        if n in broken:
            raise ZeroDivisionError
        await trio.sleep(math.inf if n in hanging else 0)
        return n

    (tmp_path / "numbers.jsonl").write_text("1\n2\n3\n")
    server = server_with(flaky, file_roots=(tmp_path,))
    asked = {"dataset": "numbers.jsonl", "operation": "flaky"}
    async with calling(server) as call:
        cut = await call("process_large_dataset", **asked, timeout_seconds=0.5)
        assert values_of(cut["data"]) == [1]
        mine = {"operation_id": cut["data"]["operation_id"]}
        hanging.clear()
        whole = await call("process_large_dataset", **mine)
        assert values_of(whole["data"]) == [1, 3]
        broken.clear()
        again = await call("process_large_dataset", **mine, retry="failed", detail="summary")
        half = await call("process_large_dataset", dataset="numbers.jsonl")
        neither = await call("process_large_dataset")
    assert again["data"]["counts"]["succeeded"] == 3
    assert again["data"]["complete"]
    assert "operation is missing" in half["error"]
    assert "dataset and operation is missing" in neither["error"]


async def test_an_answer_may_leave_out_what_a_model_need_not_read(autojump_clock):
    async def check(number: int) -> int:
        await trio.lowlevel.checkpoint()
        if number % 2:
            raise ZeroDivisionError
        return number

    shown = {}
    async with calling(server_with(check)) as call:
        for detail in ("full", "errors", "summary"):
            answer = await call(
                "batch_process", operation="check", items=list(range(40)), detail=detail
            )
            data = answer["data"]
            assert data["counts"]["succeeded"] == 20
            shown[detail] = len(data["results"]), len(data["errors"])
            if detail == "summary":
                assert "get_operation" in answer["meta"]["warnings"][-1]
                cursor = answer["meta"]["pagination"]["cursor"]
                rest = await call("get_operation", operation_id=data["operation_id"], cursor=cursor)
                assert len(rest["data"]["outcomes"]) == 34
    assert shown == {"full": (20, 20), "errors": (3, 20), "summary": (3, 3)}
