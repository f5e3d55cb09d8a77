"""Results of any size are on the disk, and memory keeps no more of them than its bound."""

import json
import sqlite3
from contextlib import closing

import pytest
import trio

from tests.support.followed_operations import calling, server_with
from trio_tools.operations import durable_store
from trio_tools.operations.durable.blobs import Stored, encode
from trio_tools.operations.durable.database import StateDatabase
from trio_tools.operations.durable.holders import new_holder
from trio_tools.operations.durable.location import Location
from trio_tools.operations.durable.records import Change, Part, Record
from trio_tools.operations.result import Place

PAGE = 50_000
BOUND = 400_000
COUNT = 30


async def page(number: int) -> str:
    """Return a page: its number over and over, with a character of two bytes."""
    await trio.lowlevel.checkpoint()
    return f"ж{number:09}" * (PAGE // 11)


def text_of(number):
    return json.dumps(f"ж{number:09}" * (PAGE // 11), ensure_ascii=False)


def bounded_server(state, **settings):
    return server_with(page, max_kept_bytes=BOUND, **state, **settings)


async def read_whole(call, operation_id, index):
    """Read one large result in parts, by its cursors."""
    answer = await call("get_operation", operation_id=operation_id)
    cursor = None
    while cursor is None:
        for outcome in answer["data"]["outcomes"]:
            if outcome["index"] == index:
                assert outcome["value"]["json_chars"] == len(text_of(index))
                cursor = outcome["value"]["cursor"]
        following = answer["meta"]["pagination"]["cursor"]
        if cursor is None:
            answer = await call("get_operation", operation_id=operation_id, cursor=following)
    parts = []
    while cursor:
        answer = await call("get_operation", operation_id=operation_id, cursor=cursor)
        parts.append(answer["data"]["json_part"])
        cursor = answer["meta"]["pagination"]["cursor"]
    return "".join(parts)


async def test_results_many_times_the_bound_are_all_kept_and_read_before_and_after_a_restart(state):
    server = bounded_server(state)
    most = 0
    async with calling(server) as call:
        store = server.state.store
        store.when_let_go = lambda size: None

        async def watch(task_status=trio.TASK_STATUS_IGNORED):
            nonlocal most
            task_status.started()
            while True:
                most = max(most, store.kept_bytes)
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            await nursery.start(watch)
            done = await call(
                "batch_process", operation="page", items=[*range(COUNT)], operation_id="op"
            )
            nursery.cancel_scope.cancel()
        assert done["data"]["counts"]["succeeded"] == COUNT
        assert done["data"]["complete"]
        # The bound, and what was in flight beyond what the first items were taken for.
        assert most < 2 * BOUND + 10 * PAGE
        (kept,) = store.operations()
        assert store.kept_bytes == kept.work.size <= BOUND
        assert kept.journal.record.size > COUNT * PAGE
        outcomes = kept.batch.report().outcomes
        assert any(outcome.value.json is None for outcome in outcomes)
        for index in (0, COUNT - 1):
            assert await read_whole(call, "op", index) == text_of(index)
    async with calling(bounded_server(state)) as call:
        for index in (3, COUNT - 1):
            assert await read_whole(call, "op", index) == text_of(index)
        again = await call(
            "batch_process", operation="page", items=[*range(COUNT)], operation_id="op"
        )
        assert again["data"]["counts"]["succeeded"] == COUNT


async def test_an_output_file_and_a_resource_have_what_left_memory(state, tmp_path):
    server = bounded_server(state, output_root=tmp_path)
    items = [*range(COUNT)]
    async with calling(server) as call:
        for suffix in ("jsonl", "csv"):
            name = f"all.{suffix}"
            asked = {"operation": "page", "items": items, "operation_id": "op"}
            done = await call("batch_process", **asked, output_file=name)
            assert done["data"]["output_file"] == str(tmp_path / name)
    lines = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert [line["value"] for line in lines] == [json.loads(text_of(n)) for n in items]
    assert (tmp_path / "all.csv").read_text().count("ж") == COUNT * (PAGE // 11)


async def test_in_memory_a_call_stops_before_it_takes_more_and_loses_nothing():
    server = bounded_server({"state": {"url": "memory"}})
    async with calling(server) as call:
        done = await call("batch_process", operation="page", items=[*range(COUNT)])
        counts = done["data"]["counts"]
        assert 1 <= counts["succeeded"] < COUNT
        assert counts["succeeded"] + counts["not_started"] == COUNT
        assert "leave no room for more" in done["data"]["summary"]
        assert any("set state.url to a file" in warning for warning in done["meta"]["warnings"])
        operation_id = done["data"]["operation_id"]
        assert await read_whole(call, operation_id, 0) == text_of(0)
        small = await call("batch_process", operation="page", items=[1])
        assert small["data"]["counts"]["succeeded"] == 1


async def test_what_was_deleted_from_the_disk_meanwhile_is_told(state, state_file):
    async with calling(bounded_server(state)) as call:
        asked = {"operation": "page", "items": [*range(COUNT)], "operation_id": "op"}
        await call("batch_process", **asked)
        with closing(sqlite3.connect(state_file)) as database, database:
            database.execute("DELETE FROM outcomes")
        answer = await call("get_operation", operation_id="op")
        assert answer["data"]["error_code"] == "UNKNOWN_OPERATION_ID"
        assert "not on the disk any more" in answer["error"]


# --- blobs ----------------------------------------------------------------------------------


class _Outcome:
    def __init__(self, index, json):
        from trio_tools.operations.result import Result  # noqa: PLC0415

        self.index, self.value, self.error, self.elapsed = index, Result(json), None, 0.5


@pytest.mark.parametrize("url", ["sqlite", "postgresql"])
def test_parts_of_blobs_are_read_where_they_are(url, state_file, request):
    if url == "postgresql":
        url = request.getfixturevalue("postgres_url")
    else:
        url = f"sqlite:///{state_file}"
    bodies = [b"1", b'"' + b"x" * 1_000_000 + b'"', b'"' + b"y" * 300 + b'"', b"2"]
    outcomes = [_Outcome(index, body) for index, body in enumerate(bodies)]
    record = Record(owner="me", operation_id="op", tool="t", name="n", schema="", request=b"[]")
    with closing(StateDatabase(Location.of_url(url), new_holder())) as database:
        (saved,) = database.commit([Change(record, outcomes)])
        assert [result for result, _ in saved.placed] == [outcomes[1].value, outcomes[2].value]
        places = [place for _, place in saved.placed]
        parts = [
            Part(places[0], 1_000_002, 0, 3),
            Part(places[0], 1_000_002, 999_999, 100),
            Part(places[1], 302, 0, 302),
            Part(places[1], 302, 400, 10),
            Part(places[1], 301, 0, 10),
            Part(Place(9, 100), 302, 0, 10),
        ]
        assert database.read(saved.key, parts) == [
            b'"xx',
            b'xx"',
            bodies[2],
            b"",
            None,  # another size: it is another result
            None,  # no such revision
        ]
        found = database.load("me", "op")
        assert found is not None
        loaded, stored = found
        assert loaded.key == saved.key
        assert [stored.ended[n].json for n in range(4)] == [b"1", None, None, b"2"]
        assert [stored.ended[n].size for n in range(4)] == [*map(len, bodies)]
        assert [stored.ended[n].place for n in (1, 2)] == places
        database.delete("me", "op")


def test_an_outcome_that_was_written_twice_is_read_once_and_a_later_one_counts():
    record = Record(owner="me", operation_id="op", tool="t", name="n", schema="", request=b"[]")
    stored = Stored()
    for revision, body in enumerate((b"1", b"1", b"2"), 1):
        data, _ = encode(Change(record, [_Outcome(0, body)], started=[0, 5]))
        stored.add(revision, len(data), lambda start, size, data=data: data[start : start + size])
    assert {index: outcome.json for index, outcome in stored.ended.items()} == {0: b"2"}
    assert stored.started == {5}


async def test_operations_that_nobody_uses_leave_memory_and_stay_readable(state, monkeypatch):
    monkeypatch.setattr(durable_store, "UNUSED_SECONDS", 0.2)
    monkeypatch.setattr(durable_store, "UNUSED_BYTES", 2 * PAGE)
    server = server_with(page, **state)
    async with calling(server) as call:
        for number in range(3):
            done = await call(
                "batch_process", operation="page", items=[number], operation_id=f"op{number}"
            )
            assert done["data"]["complete"]
        with trio.fail_after(30):
            while server.state.store.kept_bytes > 2 * PAGE:  # noqa: ASYNC110
                await trio.sleep(0.02)
        left = [each.operation_id for each in server.state.store.operations()]
        assert "op0" not in left  # the one that was used longest ago goes first
        assert "op2" in left
        for number in range(3):
            assert await read_whole(call, f"op{number}", 0) == text_of(number)
