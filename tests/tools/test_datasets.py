"""`process_large_dataset`: every record once, in order, chunk by chunk, whatever is in the file."""

import json
import math
import os
import sqlite3
from contextlib import closing

import pytest
import trio

from tests.support.followed_operations import calling, server_with, total
from tests.support.servers_in_memory import values_of


async def double(n: int) -> int:
    await trio.lowlevel.checkpoint()
    return 2 * n


async def shout(text: str) -> str:
    await trio.lowlevel.checkpoint()
    return text.upper()


async def _all(call, **arguments):
    """Process the whole dataset; return the answers' data."""
    cursor, chunks = None, []
    while True:
        answer = await call("process_large_dataset", **arguments, cursor=cursor)
        chunks.append(answer["data"])
        cursor = answer["meta"]["pagination"]["cursor"]
        assert cursor == answer["data"]["next_cursor"]
        if cursor is None:
            return chunks


@pytest.mark.parametrize("size", [1, 3, 50])
async def test_each_line_is_an_item_once_and_bad_lines_are_named(tmp_path, size, era):
    lines = ["1", "2", "nonsense", "3", '"x"', "", "4"]
    (tmp_path / "numbers.jsonl").write_text("\n".join(lines))
    async with calling(server_with(double, file_roots=(tmp_path,)), era) as call:
        chunks = await _all(call, dataset="numbers.jsonl", operation="double", chunk_size=size)
    assert [result for chunk in chunks for result in values_of(chunk)] == [2, 4, 6, 8]
    errors = [error for chunk in chunks for error in chunk["errors"] or []]
    assert [error["item"] for error in errors] == ["line 3", "line 5"]
    assert {error["error_code"] for error in errors} == {"INVALID_ITEM"}
    assert not any("line" in error["reason"] for error in errors)  # `item` says which
    assert sum(total(chunk["counts"]) for chunk in chunks) == 6
    assert all(chunk["complete"] for chunk in chunks)


async def test_a_csv_gives_objects_of_which_fields_can_be_taken(tmp_path):
    (tmp_path / "people.csv").write_text("name,note\nanna,first\nberta,\n")
    asked = {"dataset": "people.csv", "operation": "hash", "options": {"algorithm": "md5"}}
    async with calling(server_with(file_roots=(tmp_path,))) as call:
        (chunk,) = await _all(call, **asked, fields={"text": "name"})
        (wrong,) = await _all(call, **asked, fields={"text": "nothing"})
    assert [result["algorithm"] for result in values_of(chunk)] == ["md5", "md5"]
    assert [error["item"] for error in wrong["errors"]] == ["line 2", "line 3"]
    assert "'nothing'" in wrong["errors"][0]["reason"]


async def test_a_folder_gives_the_paths_of_its_files(tmp_path):
    for name in "cab":
        (tmp_path / f"{name}.txt").write_text(name)
    async with calling(server_with(file_roots=(tmp_path,))) as call:
        chunks = await _all(call, dataset=str(tmp_path), operation="compress", chunk_size=2)
    paths = [result["path"] for chunk in chunks for result in values_of(chunk)]
    assert paths == [str(tmp_path / f"{name}.txt") for name in "abc"]


async def test_a_file_whose_name_is_no_text_is_named_and_holds_up_no_other(tmp_path, era):
    for name in (b"a", b"b\xff", b"c"):
        (tmp_path / os.fsdecode(name)).write_bytes(name)
    async with calling(server_with(file_roots=(tmp_path,)), era) as call:
        chunks = await _all(call, dataset=str(tmp_path), operation="hash", chunk_size=2)
    paths = [result["path"] for chunk in chunks for result in values_of(chunk)]
    assert paths == [str(tmp_path / name) for name in "ac"]
    (error,) = chunks[0]["errors"]
    assert (error["item"], error["error_code"]) == ("file 2", "INVALID_ITEM")
    assert "b'b\\xff'" in error["reason"]


async def test_the_answer_to_a_place_that_is_gone_names_what_the_caller_gave(tmp_path):
    (tmp_path / "numbers.jsonl").write_text("1\n2\n3\n")
    (tmp_path / "notes.odd").write_text("1\n")
    async with calling(server_with(double, file_roots=(tmp_path,))) as call:
        asked = {"dataset": "numbers.jsonl", "operation": "double", "chunk_size": 2}
        cursor = (await call("process_large_dataset", **asked))["data"]["next_cursor"]
        (tmp_path / "numbers.jsonl").write_text("1")
        gone = await call("process_large_dataset", **asked, cursor=cursor)
        kind = await call("process_large_dataset", **asked | {"dataset": "notes.odd"})
    assert gone["data"]["error_code"] == "BAD_POSITION"
    assert "position" not in gone["error"]
    assert "let the operator name it in the setting datasets" in kind["error"]


async def test_a_table_gives_its_rows_in_the_order_of_its_key(tmp_path):
    with closing(sqlite3.connect(tmp_path / "shop.db")) as database, database:
        database.execute('CREATE TABLE "odd ""name" (id INTEGER, word TEXT)')
        rows = [(n, f"w{n}") for n in (5, 1, 9, 3, 7)]
        database.executemany('INSERT INTO "odd ""name" VALUES (?, ?)', rows)
    database.close()
    settings = {
        "databases": {"shop": {"url": f"sqlite:///{tmp_path}/shop.db"}},
        "datasets": {"words": {"database": "shop", "table": 'odd "name', "key": "id"}},
    }
    async with calling(server_with(**settings)) as call:
        asked = {"dataset": "words", "operation": "hash", "fields": {"text": "word"}}
        chunks = await _all(call, **asked, chunk_size=2)
        plain = (await call("batch_process", operation="hash", items=[{"text": "w3"}]))["data"]
    assert [len(values_of(chunk)) for chunk in chunks] == [2, 2, 1]
    assert values_of(chunks[0])[1] == values_of(plain)[0]


async def test_a_configured_name_stands_for_a_path(tmp_path):
    (tmp_path / "data").write_text("1\n2\n")
    settings = {"datasets": {"numbers": {"path": "data", "kind": "json_lines"}}}
    async with calling(server_with(double, file_roots=(tmp_path,), **settings)) as call:
        (chunk,) = await _all(call, dataset="numbers", operation="double")
    assert values_of(chunk) == [2, 4]


async def test_a_chunk_that_was_cancelled_is_completed_under_its_id(tmp_path):
    hanging = [2]

    async def nap(n: int) -> int:
        await trio.sleep(math.inf if n in hanging else 0.001)
        return n

    (tmp_path / "naps.jsonl").write_text("1\n2\n3\n")
    asked = {"dataset": "naps.jsonl", "operation": "nap", "operation_id": "mine"}
    async with calling(server_with(nap, file_roots=(tmp_path,))) as call:
        cut = await call("process_large_dataset", **asked, timeout_seconds=0.5)
        assert values_of(cut["data"]) == [1, 3]
        hanging.clear()
        whole = await call("process_large_dataset", **asked)
    assert values_of(whole["data"]) == [1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"dataset": "../secret.jsonl"}, "OUTSIDE_FILE_ROOTS"),
        ({"dataset": "none.jsonl"}, "NOT_FOUND"),
        ({"dataset": "none"}, "UNKNOWN_DATASET"),
        ({"dataset": "x" * 300}, "UNKNOWN_DATASET"),
        ({"dataset": "x" * 300 + ".jsonl"}, "INVALID_ARGUMENT"),
        ({"dataset": "x/" * 3_000}, "INVALID_ARGUMENT"),
        ({"dataset": "good.unknown"}, "UNKNOWN_DATASET_KIND"),
        ({"operation": "none"}, "UNKNOWN_OPERATION"),
        ({"chunk_size": 1_001}, "INVALID_ARGUMENT"),
        ({"cursor": "nonsense"}, "INVALID_CURSOR"),
    ],
)
async def test_what_cannot_be_processed_is_refused_with_a_code(tmp_path, arguments, code):
    for name in ("good.jsonl", "good.unknown"):
        (tmp_path / name).write_text(json.dumps("a"))
    async with calling(server_with(shout, file_roots=(tmp_path,))) as call:
        asked = {"dataset": "good.jsonl", "operation": "shout", **arguments}
        answer = await call("process_large_dataset", **asked)
    assert answer["data"]["error_code"] == code


async def test_an_empty_dataset_answers_like_any_batch(tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "one.jsonl").write_text('"a"')
    async with calling(server_with(shout, file_roots=(tmp_path,))) as call:
        asked = {"operation": "shout", "timeout_seconds": 9}
        empty = (await call("process_large_dataset", dataset="empty.jsonl", **asked))["data"]
        one = (await call("process_large_dataset", dataset="one.jsonl", **asked))["data"]
    assert list(empty) == list(one)
    assert (empty["complete"], values_of(empty), empty["errors"]) == (True, [], None)
    assert empty["timing"]["timeout_seconds"] == 9


async def test_a_cursor_of_another_dataset_is_refused(tmp_path):
    for name in ("one.jsonl", "two.jsonl"):
        (tmp_path / name).write_text('"a"\n"b"\n')
    async with calling(server_with(shout, file_roots=(tmp_path,))) as call:
        asked = {"operation": "shout", "chunk_size": 1}
        first = await call("process_large_dataset", dataset="one.jsonl", **asked)
        cursor = first["data"]["next_cursor"]
        answer = await call("process_large_dataset", dataset="two.jsonl", cursor=cursor, **asked)
    assert answer["data"]["error_code"] == "INVALID_CURSOR"


async def test_an_empty_dataset_is_complete(tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    async with calling(server_with(shout, file_roots=(tmp_path,))) as call:
        answer = await call("process_large_dataset", dataset="empty.jsonl", operation="shout")
    assert answer["data"]["complete"]
    assert answer["data"]["counts"]["total"] == 0
    assert answer["meta"]["pagination"] is None


async def test_half_of_a_character_is_the_failure_of_its_record_alone(tmp_path, era):
    lines = ['{"text": "ok"}', r'{"text": "\ud800"}', r'{"text": "\ud83d\ude00"}']
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    async with calling(server_with(file_roots=(tmp_path,)), era) as call:
        (chunk,) = await _all(call, dataset="texts.jsonl", operation="hash")
    assert chunk["counts"]["succeeded"] == 2
    assert [(error["item"], error["error_code"]) for error in chunk["errors"]] == [
        ("line 2", "INVALID_ITEM")
    ]
    assert "a lone surrogate" in chunk["errors"][0]["reason"]


async def test_no_records_are_counted_as_some_would_be(tmp_path):
    (tmp_path / "none.jsonl").write_text("")
    (tmp_path / "some.jsonl").write_text("1")
    async with calling(server_with(double, file_roots=(tmp_path,))) as call:
        none, some = [
            await call("process_large_dataset", dataset=f"{name}.jsonl", operation="double")
            for name in ("none", "some")
        ]
    assert list(none["data"]) == list(some["data"])
    assert list(none["data"]["counts"]) == list(some["data"]["counts"])
    assert none["data"]["counts"]["concurrency_limit"] == 10


@pytest.mark.parametrize(("key", "code"), [("ID", "UNKNOWN_KEY"), ("word", "UNUSABLE_KEY")])
async def test_a_table_whose_key_skips_rows_is_refused_and_nothing_is_done(tmp_path, key, code):
    with closing(sqlite3.connect(tmp_path / "shop.db")) as database, database:
        database.execute("CREATE TABLE words (id INTEGER, word TEXT)")
        database.executemany("INSERT INTO words VALUES (?, ?)", [(1, "a"), (2, "b"), (3, "b")])
    database.close()
    done = []

    async def note(row: dict) -> None:
        done.append(row)

    settings = {
        "databases": {"shop": {"url": f"sqlite:///{tmp_path}/shop.db"}},
        "datasets": {"words": {"database": "shop", "table": "words", "key": key}},
    }
    async with calling(server_with(note, **settings)) as call:
        asked = {"dataset": "words", "operation": "note", "chunk_size": 2}
        answer = await call("process_large_dataset", **asked)
    assert answer["data"]["error_type"] == "validation"
    assert answer["data"]["error_code"] == code
    assert done == []
