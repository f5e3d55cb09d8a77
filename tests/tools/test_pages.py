"""Every answer keeps to its budget, and whatever is left out can be read."""

import json

import pytest
import trio

from tests.support.followed_operations import calling, nap_server, server_with
from tests.support.servers_in_memory import values_of
from trio_tools.operations.operation import Operation
from trio_tools.tools.batches.outcomes import short_text

BUDGET = 4_000


async def echo(text: str) -> str:
    """Return the text, or fail with it."""
    await trio.lowlevel.checkpoint()
    if text.startswith("fail"):
        raise ValueError(text)
    return text * 10


async def _pages(call, operation_id, cursor=None, **options):
    """Read to the end; return the outcomes of all pages."""
    outcomes = []
    while True:
        page = await call("get_operation", operation_id=operation_id, cursor=cursor, **options)
        outcomes += page["data"]["outcomes"]
        cursor = page["meta"]["pagination"]["cursor"]
        if cursor is None:
            return outcomes


@pytest.mark.parametrize("page_size", [1, 3, 7, 1_000])
async def test_pages_show_every_outcome_once_in_input_order(page_size, era):
    items = [("fail" if n % 5 == 4 else "item") + f"{n:03}" for n in range(60)]
    server = server_with(echo, max_output_chars=BUDGET)
    async with calling(server, era) as call:
        done = await call("batch_process", operation="echo", items=items)
        outcomes = await _pages(call, done["data"]["operation_id"], page_size=page_size)
    assert [o["index"] for o in outcomes] == list(range(60))
    assert [o["item"] for o in outcomes] == items
    assert all(
        "value" not in o if o["item"].startswith("fail") else o["value"] == o["item"] * 10
        for o in outcomes
    )


async def test_what_an_answer_leaves_out_is_behind_its_cursor():
    items = [f"{'fail' if n % 2 else 'item'}{n:03}" for n in range(200)]
    server = server_with(echo, max_output_chars=BUDGET)
    async with calling(server) as call:
        done = await call("batch_process", operation="echo", items=items)
        data, pagination = done["data"], done["meta"]["pagination"]
        assert len(json.dumps(data, ensure_ascii=False)) < BUDGET * 1.5
        rest = await _pages(call, data["operation_id"], pagination["cursor"])
    assert len(rest) == pagination["remaining"]
    shown = len(values_of(data))
    assert values_of(data) == [item * 10 for item in items[::2][:shown]]
    assert [e["item"] for e in data["errors"]] == items[1::2][: len(data["errors"])]
    assert len(rest) + shown + len(data["errors"]) == 200
    results = [o["item"] for o in rest if "value" in o]
    errors = [o["item"] for o in rest if "value" not in o]
    assert results == items[::2][shown:]
    assert errors == items[1::2][len(data["errors"]) :]


async def test_a_result_larger_than_a_page_is_read_in_parts(era):
    large = 'a "quoted" word, ' * 200
    server = server_with(echo, max_output_chars=BUDGET)
    async with calling(server, era) as call:
        done = await call("batch_process", operation="echo", items=["small", large])
        small, shown = values_of(done["data"])
        assert small == "small" * 10
        assert shown["truncated"]
        text, cursor = "", shown["cursor"]
        while cursor:
            page = await call(
                "get_operation", operation_id=done["data"]["operation_id"], cursor=cursor
            )
            assert len(json.dumps(page["data"])) < BUDGET * 1.5
            text += page["data"]["json_part"]
            cursor = page["meta"]["pagination"]["cursor"]
    assert len(text) == shown["json_chars"]
    assert text.startswith(shown["json_start"])
    assert json.loads(text) == large * 10


@pytest.mark.parametrize("how", ["tampered", "of another operation", "of a dataset", "nonsense"])
async def test_an_invalid_cursor_is_refused(how):
    server = server_with(echo)
    async with calling(server) as call:
        ids = [
            (await call("batch_process", operation="echo", items=["a", "b"]))["data"][
                "operation_id"
            ]
            for _ in range(2)
        ]
        page = await call("get_operation", operation_id=ids[0], page_size=1)
        good = page["meta"]["pagination"]["cursor"]
        cursor = {
            "tampered": good[:-2] + ("AA" if good[-2:] != "AA" else "BB"),
            "of another operation": good,
            "of a dataset": server.state.dataset_cursors.encode({"id": ids[0], "results": 0}),
            "nonsense": "nonsense",
        }[how]
        of = ids[1] if how == "of another operation" else ids[0]
        answer = await call("get_operation", operation_id=of, cursor=cursor)
    assert answer["data"]["error_code"] == "INVALID_CURSOR"
    assert answer["data"]["error_type"] == "validation"


async def test_a_part_of_an_operation_whose_id_was_used_anew_is_refused(autojump_clock):
    server = server_with(echo, max_output_chars=BUDGET, operation_ttl_seconds=10)
    asked = {"operation": "echo", "operation_id": "mine"}
    async with calling(server) as call:
        done = await call("batch_process", **asked, items=["x" * 1_000])
        cursor = values_of(done["data"])[0]["cursor"]
        await trio.sleep(11)
        await call("batch_process", **asked, items=["small"])
        answer = await call("get_operation", operation_id="mine", cursor=cursor)
    assert answer["data"]["error_code"] == "INVALID_CURSOR"


async def test_an_operation_that_expired_is_not_found(autojump_clock):
    server, _ = nap_server(operation_ttl_seconds=100)
    async with calling(server) as call:
        done = await call("batch_process", operation="nap", items=[1, 2])
        asked = {"operation_id": done["data"]["operation_id"], "page_size": 1}
        cursor = (await call("get_operation", **asked))["meta"]["pagination"]["cursor"]
        await trio.sleep(99)
        assert (await call("get_operation", **asked, cursor=cursor))["success"]
        await trio.sleep(101)
        answer = await call("get_operation", **asked, cursor=cursor)
    assert answer["data"]["error_type"] == "not_found"


async def test_a_long_label_and_a_long_reason_are_cut():
    server = server_with(echo)
    async with calling(server) as call:
        done = await call("batch_process", operation="echo", items=["fail" + "x" * 5_000])
    (error,) = done["data"]["errors"]
    assert len(error["item"]) <= 200
    assert len(error["reason"]) <= 400


@pytest.mark.parametrize("label", [lambda item: item["no"], lambda _: object(), lambda _: "\ud800"])
async def test_a_label_that_cannot_be_had_costs_no_result(label, caplog):
    server = server_with(Operation(name="echo", fn=echo, label=label))
    async with calling(server) as call:
        done = await call("batch_process", operation="echo", items=["a", "fail"])
        outcomes = await _pages(call, done["data"]["operation_id"])
    assert values_of(done["data"]) == ["a" * 10]
    assert [error["item"] for error in done["data"]["errors"]] == ["'fail'"]
    assert [outcome["item"] for outcome in outcomes] == ["'a'", "'fail'"]
    assert "operation 'echo' cannot name an item" in caplog.text


def test_short_text_keeps_what_is_short():
    assert short_text("abc", 3) == "abc"
    assert short_text("abcd", 3) == "ab…"
    assert short_text({"a": 1}) == '{"a":1}'
