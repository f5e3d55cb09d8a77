"""The tools that do one thing: what they answer, and the bad input they refuse."""

import base64
import hashlib
import os
import zlib

import pytest

from tests.support.followed_operations import calling, server_with, total
from tests.support.raw_http_servers import next_request, serving
from tests.support.servers_in_memory import values_of
from trio_tools.settings import ApiSettings


async def test_a_query_is_paged_by_its_cursor(shop, era):
    asked = {
        "database": "shop",
        "sql": "SELECT id FROM items WHERE id >= :least ORDER BY id",
        "parameters": {"least": 2},
        "max_rows": 3,
    }
    rows, cursor = [], None
    async with calling(server_with(**shop), era) as call:
        while True:
            answer = await call("query_database", **asked, cursor=cursor)
            rows += answer["data"]["rows"]
            assert {"wait_seconds", "execute_seconds", "fetch_seconds"} == set(
                answer["data"]["timing"]
            )
            if answer["meta"]["pagination"] is None:
                break
            cursor = answer["meta"]["pagination"]["cursor"]
        other = await call("query_database", **{**asked, "sql": "SELECT 1"}, cursor=cursor)
    assert rows == [[n] for n in range(2, 10)]
    assert other["data"]["error_code"] in {"INVALID_CURSOR", "BAD_PARAMETERS"}


async def test_a_cursor_goes_on_whatever_the_order_of_the_parameters(shop):
    sql = "SELECT id FROM items WHERE id >= :least AND id < :end ORDER BY id"
    parameters = {"least": 2, "end": 9}
    turned = dict(reversed(parameters.items()))
    async with calling(server_with(**shop)) as call:

        async def next_page(sql, parameters, page):
            cursor = page["meta"]["pagination"]["cursor"]
            return await call("query_database", sql=sql, parameters=parameters, cursor=cursor)

        page = await call("query_database", sql=sql, parameters=parameters, max_rows=3)
        assert (await next_page(sql, turned, page))["data"]["rows"] == [[5], [6], [7], [8]]
        other = await next_page(sql, parameters | {"end": 8}, page)
        assert other["data"]["error_code"] == "INVALID_CURSOR"
        page = await call("query_database", sql="SELECT id FROM items", max_rows=9)
        assert (await next_page("SELECT id FROM items", {}, page))["data"]["rows"] == [[9]]


async def test_queries_can_be_a_batch(shop):
    items = [
        {"database": "shop", "sql": "SELECT name FROM items WHERE id = :n", "parameters": {"n": n}}
        for n in range(5)
    ]
    items += [
        {"database": "shop", "sql": "DELETE FROM items"},
        {"database": "x", "sql": "SELECT 1"},
    ]
    async with calling(server_with(**shop)) as call:
        data = (await call("batch_process", operation="query", items=items))["data"]
    assert [result["rows"] for result in values_of(data)] == [[[f"n{n}"]] for n in range(5)]
    codes = [error["error_code"] for error in data["errors"]]
    assert codes == ["READ_ONLY", "UNKNOWN_DATABASE"]
    assert total(data["counts"]) == 7


async def test_a_text_is_compressed_and_comes_back(era):
    text = "some words " * 500
    async with calling(server_with(), era) as call:
        for algorithm in ("zlib", "gzip", "lzma", "zstd"):
            packed = await call(
                "compress_data", text=text, algorithm=algorithm, max_output_bytes=10_000
            )
            data = packed["data"]
            assert data["original_bytes"] == len(text)
            assert data["compressed_bytes"] < 500
            back = await call(
                "compress_data", content_base64=data["content_base64"], algorithm=algorithm
            )
            assert back["data"]["text"] == text


async def test_a_result_that_does_not_fit_into_an_answer_is_left_out_of_it():
    text = base64.b64encode(os.urandom(10_000)).decode()
    asked = {"text": text, "algorithm": "zlib", "max_output_bytes": 1_000_000}
    async with calling(server_with(max_output_chars=12_000)) as call:
        fits = await call("compress_data", **asked | {"text": text[:8_000]})
        none = await call("compress_data", **asked)
        small = await call("compress_data", **asked | {"max_output_bytes": 10})
        paged = await call("batch_process", operation="compress", items=[asked])
    assert len(fits["data"]["content_base64"]) <= 12_000
    assert fits["meta"]["warnings"] == []
    for answer in (none, small):
        assert answer["data"]["content_base64"] is None
        assert answer["data"]["content_left_out"]
    assert "the 9000 bytes that fit into an answer" in none["meta"]["warnings"][0]
    assert "batch_process" in none["meta"]["warnings"][0]
    assert "max_output_bytes (10)" in small["meta"]["warnings"][0]
    assert values_of(paged["data"])[0]["truncated"]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (base64.b64encode(zlib.compress(b"\xff\xfe")).decode(), "NOT_TEXT"),
        (base64.b64encode(b"none of it").decode(), "NOT_COMPRESSED"),
        (base64.b64encode(zlib.compress(b"a" * 10**7)).decode(), "TOO_LARGE"),
        ("no base64!", "NOT_BASE64"),
    ],
)
async def test_what_is_no_compressed_text_is_refused(content, code):
    async with calling(server_with()) as call:
        answer = await call("compress_data", content_base64=content, algorithm="zlib")
    assert answer["data"]["error_type"] == "validation"
    assert answer["data"]["error_code"] == code


@pytest.mark.parametrize("tool", ["compute_hash", "compress_data"])
@pytest.mark.parametrize("arguments", [{}, {"text": "a", "path": "b"}])
async def test_not_exactly_one_source_is_refused(tool, arguments):
    async with calling(server_with()) as call:
        answer = await call(tool, **arguments)
    assert answer["data"]["arguments"][:2] == ["data", "path"]


async def test_the_only_database_need_not_be_named(shop):
    asked = {"sql": "SELECT count(*) FROM items"}
    url = shop["databases"]["shop"]["url"]
    two = {"databases": {name: {"url": url} for name in ("north", "south")}}
    async with calling(server_with(**shop)) as call:
        assert (await call("query_database", **asked))["data"]["rows"] == [[10]]
    async with calling(server_with(**two)) as call:
        told = await call("query_database", **asked)
    assert told["data"]["error_type"] == "validation"
    assert "north, south" in told["error"]
    async with calling(server_with()) as call:
        told = await call("query_database", **asked)
    assert told["data"]["error_code"] == "NO_DATABASES"


async def test_a_file_is_hashed_and_one_outside_of_the_roots_is_not(tmp_path):
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "file").write_bytes(b"content")
    (tmp_path / "outside").write_bytes(b"secret")
    async with calling(server_with(file_roots=(tmp_path / "inside",))) as call:
        good = await call("compute_hash", path="file")
        bad = await call("compute_hash", path="../outside")
    assert good["data"]["hexdigest"] == hashlib.sha256(b"content").hexdigest()
    assert bad["data"]["error_type"] == "forbidden"


async def test_a_model_file_that_is_none_is_an_error(tmp_path, era):
    pytest.importorskip("onnxruntime", reason="the extra `inference` is not installed")
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    async with calling(server_with(models_folder=tmp_path), era) as call:
        answer = await call("run_inference", model="bad", inputs={})
        unknown = await call("run_inference", model="none", inputs={})
        listed = await call("run_inference")
    assert answer["data"]["error_code"] == "NOT_A_MODEL"
    assert answer["data"]["error_type"] == "validation"
    assert unknown["data"]["models"] == ["bad"]
    assert [model["name"] for model in listed["data"]["models"]] == ["bad"]


async def test_a_model_runs_alone_and_as_a_batch(tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra `inference` is not installed")
    helper = pytest.importorskip("onnx", reason="onnx makes the model").helper
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "g",
        [value("x", 1, [2])],
        [value("y", 1, [2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (tmp_path / "twice.onnx").write_bytes(model.SerializeToString())
    async with calling(server_with(models_folder=tmp_path)) as call:
        alone = await call("run_inference", model="twice", inputs={"x": [1, 2]})
        items = [{"model": "twice", "inputs": {"x": [n, n]}} for n in range(3)]
        batch = await call("batch_process", operation="infer", items=items)
        told = await call("run_inference", model="twice")
    assert alone["data"]["outputs"] == {"y": [2.0, 4.0]}
    assert values_of(batch["data"]) == [{"y": [2.0 * n] * 2} for n in range(3)]
    assert told["data"]["inputs"][0]["name"] == "x"


async def _api(stream, server):
    while await next_request(stream, server):
        secret = server.requests[-1].lower().split(b"authorization: bearer ")[1].split(b"\r\n")[0]
        body = b'{"said": "' + secret + b'"}'
        await stream.send_all(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
            b"RateLimit-Limit: 60\r\nRateLimit-Remaining: 59\r\n\r\n%b" % (len(body), body)
        )


async def test_an_api_is_called_with_a_secret_that_nobody_sees(monkeypatch, era, caplog):
    monkeypatch.setitem(os.environ, "SHOP_KEY", "hush-hush-123")
    async with serving(_api) as site:
        apis = {"shop": ApiSettings(base_url=f"{site.url}/v1", auth_env="SHOP_KEY")}
        async with calling(server_with(apis=apis), era) as call:
            answer = await call("call_external_api", api="shop", path="/items")
            items = [{"api": "shop", "path": f"/{n}"} for n in range(2)]
            batch = await call("batch_process", operation="call_api", items=items)
            refused = await call("call_external_api", api="shop", path="/x", method="DELETE")
            status = await call("get_concurrency_status")
    assert b"Bearer hush-hush-123" in site.requests[0]
    assert site.requests[0].startswith(b"GET /v1/items ")
    limit = answer["meta"]["rate_limit"]
    assert (limit["limit"], limit["remaining"], limit["retry_after_seconds"]) == (60, 59, None)
    assert limit["waited_seconds"] >= 0
    assert refused["data"]["error_type"] == "forbidden"
    assert status["data"]["rate_limits"]["shop"]["capacity"] == 5
    assert batch["data"]["complete"]
    for seen in (answer, batch, refused, status, caplog.text):
        assert "hush-hush-123" not in str(seen)


async def test_an_unknown_api_is_answered_with_the_names():
    async with calling(server_with()) as call:
        answer = await call("call_external_api", api="none", path="/")
    assert answer["data"]["error_code"] == "UNKNOWN_API"


@pytest.mark.parametrize("item", [{"url": 3}, {"uri": "http://a/"}, {}, 3])
async def test_an_item_of_another_shape_is_refused_before_any_is_run(item):
    async with calling(server_with()) as call:
        answer = await call("batch_process", operation="fetch", items=["http://b/", item])
    assert answer["data"]["error_code"] == "INVALID_ITEMS"


BAD_VALUES = {
    "too many bytes": ("fetch", {"url": "http://a/", "max_bytes": 5_000_001}, "INVALID_ITEM"),
    "no scheme of the web": ("fetch", {"url": "ftp://a/"}, "BLOCKED_SCHEME"),
    "no URL": ("fetch", "x y", "INVALID_URL"),
    "a header that is refused": ("fetch", {"url": "http://a/", "headers": {"cookie": "a"}}, None),
    "an unknown hash": ("hash", {"text": "a", "algorithm": "none"}, None),
    "a path outside of the roots": ("hash", {"path": "/etc/passwd"}, "OUTSIDE_FILE_ROOTS"),
}


@pytest.mark.parametrize("case", BAD_VALUES)
async def test_one_bad_value_is_one_bad_item(case):
    operation, item, code = BAD_VALUES[case]
    good = "http://127.0.0.1:9/" if operation == "fetch" else "good"
    async with calling(server_with()) as call:
        answer = await call("batch_process", operation=operation, items=[good, item, good])
    errors = {error["index"]: error for error in answer["data"]["errors"]}
    assert answer["data"]["counts"]["total"] == 3
    assert errors[1]["status"] == "failed"
    assert errors[1]["error_code"] != "INTERNAL"
    assert code in {None, errors[1]["error_code"]}
    if operation == "hash":
        assert [result["index"] for result in answer["data"]["results"]] == [0, 2]
