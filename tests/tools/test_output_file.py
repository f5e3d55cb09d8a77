"""`output_file`: all outcomes in a file of the operator's folder, whole or not at all."""

import csv
import errno
import json
import math
import os

import pytest
import trio

from tests.support.followed_operations import calling, nap_server, server_with
from tests.support.servers_in_memory import connected
from trio_tools.answers.errors import Forbidden
from trio_tools.files import output_folder
from trio_tools.files.output_folder import OutputFolder
from trio_tools.settings import FetchSettings, Settings

BATCH_LIKE = ["fetch_urls", "crawl_site", "batch_process", "process_large_dataset"]
BIG = "x" * 50_000  # more than an answer takes


async def check(number: int) -> object:
    await trio.lowlevel.checkpoint()
    if number == 1:
        raise ZeroDivisionError
    return {0: BIG, 2: {"wide": 2**60}}.get(number, number)


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    return folder


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


async def written(root, name, **arguments):
    """Run four items into a file; return the answer's data and the file."""
    async with calling(server_with(check, output_root=root)) as call:
        answer = await call(
            "batch_process", operation="check", items=[0, 1, 2, 3], output_file=name, **arguments
        )
    return answer["data"], root / name


async def test_json_lines_have_each_outcome_whole_in_the_shape_of_an_answer(root):
    data, file = await written(root, "all.jsonl", detail="summary")
    assert data["output_file"] == str(file)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines[0] == {"index": 0, "item": 0, "value": BIG}
    assert lines[1]["status"] == "failed"
    assert list(lines[1]) == ["index", "item", "status", "error_code", "reason"]
    assert lines[2]["value"] == {"wide": str(2**60)}
    assert lines[3] == {"index": 3, "item": 3, "value": 3}
    assert file.stat().st_mode & 0o777 == 0o600


async def test_csv_has_a_row_for_each_outcome(root):
    _, file = await written(root, "all.CSV")
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert list(rows[0]) == ["index", "item", "status", "error_code", "reason", "value"]
    assert [row["status"] for row in rows] == ["succeeded", "failed", "succeeded", "succeeded"]
    assert (rows[0]["value"], rows[3]["value"]) == (BIG, "3")
    assert json.loads(rows[2]["value"]) == {"wide": str(2**60)}
    assert (rows[1]["error_code"], rows[1]["value"]) == ("INTERNAL", "")


async def test_both_forms_name_the_file_and_only_if_there_is_one(root, era):
    asked = {"operation": "check", "items": [3]}
    async with connected(server_with(check, output_root=root), era) as client:
        with_file = await client.call_tool("batch_process", {**asked, "output_file": "a.jsonl"})
        without = await client.call_tool("batch_process", asked)
    assert f"output_file {root / 'a.jsonl'}" in with_file.content[0].text
    assert "output_file" not in without.structured_content["data"]


async def test_it_is_in_the_schemas_only_where_a_folder_is_configured(root):
    for settings, listed in (({"output_root": root}, BATCH_LIKE), ({}, [])):
        server = server_with(file_roots=(root,), fetch=FetchSettings(crawl=True), **settings)
        async with connected(server) as client:
            tools = (await client.list_tools()).tools
        assert [t.name for t in tools if "output_file" in t.input_schema["properties"]] == listed


async def test_without_a_folder_it_is_refused_and_nothing_is_done():
    server, trace = nap_server()
    async with calling(server) as call:
        answer = await call("batch_process", operation="nap", items=[0], output_file="a.jsonl")
    assert answer["data"]["error_code"] == "NO_OUTPUT_ROOT"
    assert "output_root" in answer["error"]
    assert trace.begun == []


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("../a.jsonl", "OUTSIDE_OUTPUT_ROOT", "results.jsonl"),
        ("/etc/a.jsonl", "OUTSIDE_OUTPUT_ROOT", "results.jsonl"),
        ("out/a.jsonl", "OUTSIDE_OUTPUT_ROOT", "results.jsonl"),
        ("leads-out.jsonl", "OUTSIDE_OUTPUT_ROOT", "results.jsonl"),
        ("a.txt", "INVALID_ARGUMENT", ".jsonl, .ndjson, .csv"),
        ("folder.csv", "INVALID_ARGUMENT", "is a folder"),
        ("none/a.csv", "INVALID_ARGUMENT", "a folder that is not there"),
        ("a\0.csv", "INVALID_ARGUMENT", "NUL"),
        ("a\n.csv", "INVALID_ARGUMENT", "no control characters"),
        ("é" * 127 + ".csv", "INVALID_ARGUMENT", "at most 255 bytes"),
    ],
)
async def test_what_cannot_be_written_is_refused_before_anything_is_done(root, name, code, words):
    (root / "out").symlink_to("/tmp")
    (root / "leads-out.jsonl").symlink_to(root.parent / "secret.jsonl")
    (root / "folder.csv").mkdir()
    server, trace = nap_server(output_root=root)
    async with calling(server) as call:
        answer = await call("batch_process", operation="nap", items=[0], output_file=name)
    assert answer["data"]["error_code"] == code
    assert words in answer["error"]
    assert trace.begun == []
    assert names_in(root) == ["folder.csv", "leads-out.jsonl", "out"]


async def test_the_longest_name_is_written(root):
    name = "😀" * 62 + ".jsonl"
    server, _ = nap_server(output_root=root)
    async with calling(server) as call:
        await call("batch_process", operation="nap", items=[0], output_file=name)
    assert names_in(root) == [name]


async def test_a_link_within_the_folder_is_followed_and_stays(root):
    (root / "today.jsonl").symlink_to(root / "real.jsonl")
    data, _ = await written(root, "today.jsonl")
    assert data["output_file"] == str(root / "real.jsonl")
    assert (root / "today.jsonl").is_symlink()


async def test_a_full_disk_leaves_the_file_of_before_and_the_answer(root, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (root / "all.jsonl").write_text("before")
    monkeypatch.setattr(output_folder.os, "fsync", full)
    async with calling(server_with(check, output_root=root)) as call:
        answer = await call("batch_process", operation="check", items=[3], output_file="all.jsonl")
    assert answer["data"]["results"][0]["value"] == 3
    assert answer["data"]["output_file"] is None
    assert "No space left" in " ".join(answer["meta"]["warnings"])
    assert (root / "all.jsonl").read_text() == "before"
    assert names_in(root) == ["all.jsonl"]


def test_a_reader_finds_the_old_file_or_the_new_one_and_a_failure_leaves_nothing(root):
    folder = OutputFolder(root)
    folder.write("a.csv", [b"old"])

    def lines():
        yield b"half"
        assert (root / "a.csv").read_bytes() == b"old"
        yield b"whole"

    assert folder.write("a.csv", lines()).size_bytes == 9
    assert (root / "a.csv").read_bytes() == b"halfwhole"
    with pytest.raises(ZeroDivisionError):
        folder.write("b.csv", (1 // 0 for _ in "a"))
    assert names_in(root) == ["a.csv"]


def test_a_folder_that_is_swapped_for_a_link_is_not_followed(root, tmp_path, monkeypatch):
    (root / "sub").mkdir()
    (tmp_path / "elsewhere").mkdir()
    folder = OutputFolder(root)
    path = folder.check("sub/a.csv")
    (root / "sub").rmdir()
    (root / "sub").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setattr(folder, "check", lambda _: path)
    with pytest.raises(Forbidden):
        folder.write("sub/a.csv", [b"a"])
    assert names_in(tmp_path / "elsewhere") == []


async def test_a_cancelled_batch_writes_its_outcomes_and_a_second_call_writes_all(root):
    hanging = [2]

    async def hang(n: int) -> int:
        await trio.sleep(math.inf if n in hanging else 0)
        return n

    async with calling(server_with(hang, output_root=root)) as call:
        cut = await call(
            "batch_process",
            operation="hang",
            items=[1, 2],
            timeout_seconds=0.5,
            output_file="all.jsonl",
        )
        hanging.clear()
        lines = [json.loads(line) for line in (root / "all.jsonl").read_text().splitlines()]
        assert [line.get("status") for line in lines] == [None, "cancelled"]
        await call(
            "batch_process",
            operation_id=cut["data"]["operation_id"],
            output_file="all.jsonl",
        )
    lines = [json.loads(line) for line in (root / "all.jsonl").read_text().splitlines()]
    assert [line["value"] for line in lines] == [1, 2]


async def test_work_in_the_background_writes_when_it_has_ended(root):
    server, _ = nap_server(output_root=root)
    async with calling(server) as call:
        answer = await call(
            "batch_process",
            operation="nap",
            items=[0.01],
            background=True,
            output_file="all.jsonl",
        )
        assert answer["data"]["output_file"] == str(root / "all.jsonl")
        read = await call(
            "get_operation", operation_id=answer["data"]["operation_id"], wait_seconds=20
        )
    assert json.loads((root / "all.jsonl").read_text())["value"] == 0.01
    assert read["data"]["output_file"] == str(root / "all.jsonl")
    assert read["meta"]["warnings"] == []


async def test_a_failure_to_write_in_the_background_is_told_by_each_tool_that_reads_it(
    root, era, monkeypatch
):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(output_folder.os, "fsync", full)
    server, _ = nap_server(output_root=root)
    asked = {"operation": "nap", "items": [0], "operation_id": "mine", "output_file": "all.jsonl"}
    async with connected(server, era) as client:
        await client.call_tool("batch_process", {**asked, "background": True})
        read = await client.call_tool("get_operation", {"operation_id": "mine", "wait_seconds": 20})
        status = await client.call_tool("get_concurrency_status", {})
        monkeypatch.undo()
        again = await client.call_tool("batch_process", {**asked, "background": True})
        after = await client.call_tool("get_concurrency_status", {})
    for answer in (read, status):
        assert "No space left" in answer.content[0].text
    assert read.structured_content["data"]["output_file"] is None
    assert "output_file" in " ".join(read.structured_content["meta"]["warnings"])
    [told] = status.structured_content["data"]["files_not_written"]
    assert (told["operation_id"], told["output_file"]) == ("mine", str(root / "all.jsonl"))
    assert "could not be written" in status.structured_content["meta"]["warnings"][0]
    # All items are done, so the file is all that is left to do.
    assert again.structured_content["data"]["output_file"] == str(root / "all.jsonl")
    assert after.structured_content["data"]["files_not_written"] == []
    assert json.loads((root / "all.jsonl").read_text())["index"] == 0


async def test_a_file_that_was_not_written_is_told_after_a_restart_too(root, tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    stored = {"output_root": root, "state": {"url": f"sqlite:///{tmp_path}/state.db"}}
    monkeypatch.setattr(output_folder.os, "fsync", full)
    async with calling(nap_server(**stored)[0]) as call:
        asked = {"operation_id": "mine", "background": True, "output_file": "all.csv"}
        await call("batch_process", operation="nap", items=[0], **asked)
        await call("get_operation", operation_id="mine", wait_seconds=20)
    async with calling(nap_server(**stored)[0]) as call:
        read = await call("get_operation", operation_id="mine")
    assert read["data"]["output_file"] is None
    assert "No space left" in " ".join(read["meta"]["warnings"])


async def test_a_stop_before_the_file_is_written_is_told(root):
    server, _ = nap_server(output_root=root)
    async with calling(server) as call:
        asked = {"operation_id": "mine", "background": True, "output_file": "all.csv"}
        begun = await call("batch_process", operation="nap", items=[3600], **asked)
        running = await call("get_operation", operation_id="mine")
        stopped = await call("cancel_operation", operation_id="mine")
        read = await call("get_operation", operation_id="mine")
    assert begun["data"]["output_file"] == running["data"]["output_file"] == str(root / "all.csv")
    for answer in (stopped, read):
        assert answer["data"]["output_file"] is None
        assert "stopped before output_file was written" in " ".join(answer["meta"]["warnings"])


def test_a_path_that_is_not_a_folder_ends_the_start(tmp_path):
    with pytest.raises(ValueError, match="name the one that may be written"):
        Settings(output_root=tmp_path / "none")
