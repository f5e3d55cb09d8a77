"""With inputs at their caps the default tools hold up nobody: no step of a task over 100 ms.

A step may take long in real time because the machine is busy with something else, but not each
time; one that blocks is long each time.
"""

import json
import os
import sqlite3
import time
from contextlib import closing

import pytest
import trio

from nursery_patterns import StepMonitor
from tests.support.followed_operations import server_with
from tests.support.raw_http_servers import answering, reply, serving
from tests.support.servers_in_memory import LONG_STEP_SECONDS, connected, no_long_steps, values_of
from trio_tools.inference.models import DEFAULT_MAX_VALUES
from trio_tools.settings import FetchSettings

LIMIT_SECONDS = 0.1
ATTEMPTS = 10
CALLERS = {"fetch": FetchSettings(allow_private=True, ports=None), "max_kept_bytes": 2**30}


async def echo(item: int) -> int:
    """Return the item."""
    await trio.lowlevel.checkpoint()
    return item


async def check_steps(server, tool, arguments, *, success=True):
    """Call a tool and see that no step computed too long; return the data of its answer."""
    worst = []
    async with connected(server) as client:
        while len(worst) < ATTEMPTS:
            monitor = StepMonitor(LIMIT_SECONDS, on_block=lambda _: None, timer=time.thread_time)
            with monitor.watching():
                answer = await client.call_tool(tool, arguments)
            assert answer.is_error is not success, answer.content
            if monitor.worst is None:
                return answer.structured_content["data"]
            worst.append(monitor.worst)
    raise AssertionError(worst)


async def test_the_watch_over_every_test_with_a_client_sees_a_step_that_is_too_long():
    async def hog():
        end = time.thread_time() + LONG_STEP_SECONDS * 1.2
        while time.thread_time() < end:
            pass
        await trio.lowlevel.checkpoint()

    with pytest.raises(AssertionError, match="hog"), no_long_steps():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hog)


async def test_the_hash_of_a_file_of_1_gb(tmp_path):
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**30)
    server = server_with(file_roots=(tmp_path,))
    data = await check_steps(server, "compute_hash", {"path": "large", "algorithm": "sha1"})
    assert data["size_bytes"] == 2**30


async def test_a_text_of_50_mb():
    for tool in ("compress_data", "compute_hash"):
        data = await check_steps(server_with(), tool, {"text": "some words " * 4_545_454})
        assert data.get("original_bytes", data.get("size_bytes")) == 49_999_994


async def test_a_file_of_50_mb_that_compresses_badly(tmp_path):
    (tmp_path / "large").write_bytes(os.urandom(50_000_000))
    asked = {"path": "large", "algorithm": "zlib", "level": 1}
    data = await check_steps(server_with(file_roots=(tmp_path,)), "compress_data", asked)
    assert data["original_bytes"] == 50_000_000


@pytest.mark.parametrize("body_as", ["text", "markdown"])
async def test_a_page_of_5_mb(body_as):
    paragraph = b"<p>" + b"Some words \xc3\xa9 in a row. " * 210 + b"</p>"
    page = (b"<html><body><article>" + paragraph * 1_000)[:5_000_000]
    assert len(page) == 5_000_000
    async with serving(answering(reply(page, "Content-Type: text/html; charset=utf-8"))) as site:
        asked = {"urls": [site.url], "max_bytes": 5_000_000, "body_as": body_as}
        data = await check_steps(server_with(**CALLERS), "fetch_urls", asked)
    assert data["counts"]["succeeded"] == 1
    assert ("cursor" in values_of(data)[0]) is (body_as == "text")


async def test_the_longest_json_that_is_parsed():
    records = [{"id": n, "name": f"name {n}", "tags": ["a", "b"]} for n in range(9_000)]
    body = json.dumps(records).encode()
    assert 450_000 < len(body) <= 500_000
    async with serving(answering(reply(body, "Content-Type: application/json"))) as site:
        asked = {"urls": [site.url], "max_bytes": 500_000, "body_as": "json"}
        data = await check_steps(server_with(**CALLERS), "fetch_urls", asked)
        assert data["counts"]["succeeded"] == 1
        asked["max_bytes"] = 5_000_000
        data = await check_steps(server_with(**CALLERS), "fetch_urls", asked, success=False)
    assert data["error_type"] == "validation"


async def test_a_batch_of_1_000_items():
    asked = {"operation": "echo", "items": list(range(1_000))}
    data = await check_steps(server_with(echo), "batch_process", asked)
    assert values_of(data) == list(range(1_000))
    data = await check_steps(
        server_with(), "batch_process", {**asked, "operation": "hash", "items": ["x"] * 1_000}
    )
    assert data["counts"]["succeeded"] == 1_000


async def test_1_000_items_that_all_fail_or_fit_nothing():
    asked = {"urls": ["http://127.0.0.1:1/"] * 1_000}
    data = await check_steps(server_with(**CALLERS), "fetch_urls", asked)
    assert data["counts"]["failed"] == 1_000
    asked = {"operation": "query", "items": [{"database": 1, "sql": None}] * 1_000}
    data = await check_steps(server_with(), "batch_process", asked, success=False)
    assert len(data["invalid_items"]) == 1_000


async def test_1_000_pages_at_once():
    body = b"x" * 20_000
    async with serving(answering(reply(body, "Content-Type: text/plain"))) as site:
        asked = {"urls": [f"{site.url}/{n}" for n in range(1_000)], "max_concurrent": 50}
        data = await check_steps(server_with(**CALLERS), "fetch_urls", asked)
    assert data["counts"]["succeeded"] == 1_000


async def test_the_largest_chunk_of_a_dataset_and_the_largest_page_of_an_operation(tmp_path):
    lines = "".join(json.dumps({"n": n, "text": "x" * 150}) + "\n" for n in range(5_000))
    (tmp_path / "lines.jsonl").write_text(lines)

    async def same(record: dict) -> dict:
        return await echo(record)

    server = server_with(same, file_roots=(tmp_path,))
    asked = {"dataset": "lines.jsonl", "operation": "same", "chunk_size": 1_000}
    data = await check_steps(server, "process_large_dataset", asked)
    assert data["counts"]["succeeded"] == 1_000
    page = {"operation_id": data["operation_id"], "page_size": 1_000}
    assert (await check_steps(server, "get_operation", page))["outcomes"]


async def test_the_most_values_that_a_model_may_give(tmp_path):
    models = pytest.importorskip("tests.support.models")
    kind, helper = models.onnx.TensorProto, models.onnx.helper
    value = helper.make_tensor("value", kind.FLOAT, [1], [0.123456])
    node = helper.make_node("ConstantOfShape", ["n"], ["y"], value=value)
    shapes = [("n", kind.INT64, [1])], [("y", kind.FLOAT, ["n"])]
    models.save_model(tmp_path / "many.onnx", [node], *shapes)
    server = server_with(models_folder=tmp_path)
    item = {"model": "many", "inputs": {"n": [DEFAULT_MAX_VALUES]}}
    data = await check_steps(server, "run_inference", item, success=False)
    assert "send a smaller batch" in data["remediation"]
    asked = {"operation": "infer", "items": [item]}
    data = await check_steps(server, "batch_process", asked)
    assert values_of(data)[0]["json_chars"] > 20 * DEFAULT_MAX_VALUES


async def test_the_largest_answer_of_a_database(tmp_path):
    with closing(sqlite3.connect(tmp_path / "shop.db")) as database, database:
        database.execute("CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT)")
        rows = [(n, "x" * 5) for n in range(10_001)]
        database.executemany("INSERT INTO items VALUES (?, ?)", rows)
        database.execute("CREATE TABLE long AS SELECT id, hex(zeroblob(450)) AS text FROM items")
    database.close()
    settings = {
        "databases": {"shop": {"url": f"sqlite:///{tmp_path}/shop.db"}},
        "max_output_chars": 200_000,
    }
    for sql, least in (("SELECT * FROM items", 9_000), ("SELECT * FROM long", 200)):
        asked = {"sql": sql, "max_rows": 10_000}
        data = await check_steps(server_with(**settings), "query_database", asked)
        assert data["row_count"] >= least
        assert data["truncated"]
