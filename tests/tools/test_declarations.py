"""Description, caps and status come from one declaration and the live limits."""

import functools
import json
import re

import pytest
import trio
from mcp.client import Client

from tests.support.followed_operations import Trace, calling, nap_server, server_with
from tests.support.raw_http_servers import OK, answering, serving
from tests.support.servers_in_memory import connected, status_of
from trio_tools.operations import Operation
from trio_tools.server import create_server
from trio_tools.settings import ApiSettings, FetchSettings, Settings

DEFAULT = [
    "get_concurrency_status",
    "fetch_urls",
    "call_external_api",
    "query_database",
    "compute_hash",
    "compress_data",
    "run_inference",
    "batch_process",
    "process_large_dataset",
    "get_operation",
    "cancel_operation",
]
PATTERNS = [
    "rate_limited_operation",
    "parallel_fetch",
    "process_batch_streaming",
    "process_with_timeout",
    "query_with_timeout",
    "cancellable_operation",
    "main_operation",
]
READING = {*DEFAULT, *PATTERNS} - {
    "call_external_api",
    "batch_process",
    "process_large_dataset",
    "cancel_operation",
}


UNCONFIGURED = ["call_external_api", "query_database", "run_inference", "process_large_dataset"]
# What every API of a model takes in a schema.
NEEDS = {
    "call_external_api": "apis",
    "query_database": "databases",
    "run_inference": "models_folder",
    "process_large_dataset": "file_roots or datasets",
    "crawl_site": "fetch.crawl",
}
WORDS = {"type", "properties", "required", "items", "enum", "description", "minimum", "maximum"}


def everything(tmp_path, shop):
    """Return settings with one of each."""
    (tmp_path / "twice.onnx").write_bytes(b"")
    return {
        "file_roots": (tmp_path,),
        "models_folder": tmp_path,
        "apis": {"orders": {"base_url": "http://127.0.0.1:9/", "description": "The orders."}},
        "datasets": {"people": {"path": "people.jsonl"}},
        **shop,
    }


@pytest.mark.parametrize(
    ("toolset", "names"), [("default", DEFAULT), ("patterns", DEFAULT + PATTERNS)]
)
async def test_a_toolset_has_these_tools_each_with_its_lines(era, toolset, names, tmp_path, shop):
    server = server_with(toolset=toolset, **everything(tmp_path, shop))
    async with connected(server, era) as client:
        tools = (await client.list_tools()).tools
    assert [tool.name for tool in tools] == names
    for tool in tools:
        lines = r"\n\nExecution: .+\nConcurrency: .+\nTimeout: .+"
        assert re.search(lines, tool.description), tool.name
        assert tool.annotations.read_only_hint is (tool.name in READING), tool.name
        assert tool.output_schema["title"] == "response-v2"
        undescribed = [
            n for n, p in tool.input_schema["properties"].items() if not p.get("description")
        ]
        assert undescribed == [], tool.name


async def test_what_is_not_configured_is_not_listed(era):
    async with connected(server_with(), era) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert list(tools) == [name for name in DEFAULT if name not in UNCONFIGURED]
    operations = tools["batch_process"].input_schema["properties"]["operation"]["enum"]
    assert operations == ["fetch", "hash", "compress"]


async def test_a_call_of_what_is_not_listed_is_refused_with_the_names_there_are(era):
    async with calling(server_with(), era) as call:
        for name, setting in NEEDS.items():
            answer = await call(name)
            assert f"{name} needs the setting {setting}" in answer["error"]
            assert answer["data"]["tools"] == [n for n in DEFAULT if n not in UNCONFIGURED]
            assert "fetch_urls" in answer["error"]


async def test_schemas_name_what_there_is(era, tmp_path, shop):
    async def shout(text: str) -> str:
        """Return a text in capital letters."""
        return text.upper()

    server = server_with(shout, **everything(tmp_path, shop))
    async with connected(server, era) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}

    def names(tool, argument):
        return tools[tool].input_schema["properties"][argument]["enum"]

    operations = ["fetch", "call_api", "hash", "compress", "query", "infer", "shout"]
    assert names("batch_process", "operation") == operations
    assert names("process_large_dataset", "operation") == operations
    assert names("process_large_dataset", "dataset") == ["people"]
    assert names("query_database", "database") == ["shop"]
    assert names("call_external_api", "api") == ["orders"]
    assert names("run_inference", "model") == ["twice"]
    assert "sha256" in names("compute_hash", "algorithm")
    assert "- orders: The orders. (GET /)" in tools["call_external_api"].description
    told = tools["batch_process"].description
    assert "- shout: Return a text in capital letters. Item: string" in told
    assert "body_as? (text|json|markdown|none)" in told
    assert "At most 1000" in tools["fetch_urls"].input_schema["properties"]["urls"]["description"]


def check_schema(schema, place):
    assert set(schema) <= WORDS, place
    assert schema["type"] in {"string", "integer", "number", "boolean", "array", "object"}, place
    assert ("items" in schema) is (schema["type"] == "array"), place
    for name, field in schema.get("properties", {}).items():
        check_schema(field, f"{place}.{name}")
    if "items" in schema:
        check_schema(schema["items"], f"{place}[]")
    assert set(schema.get("required", ())) <= set(schema.get("properties", ())), place
    for name in schema.get("enum", ()):
        assert isinstance(name, str), place


async def test_schemas_have_only_words_that_every_model_api_takes(era, tmp_path, shop):
    server = server_with(toolset="patterns", **everything(tmp_path, shop))
    async with connected(server, era) as client:
        for tool in (await client.list_tools()).tools:
            check_schema(tool.input_schema, tool.name)
            assert re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]{0,63}", tool.name)


async def test_the_list_of_tools_is_lean(tmp_path, shop):
    full = everything(tmp_path, shop)
    default = {name: full[name] for name in ("file_roots", "databases")}
    for settings, most in ((default, 12_000), (full, 17_000)):
        async with connected(server_with(**settings)) as client:
            listed = await client.list_tools()
        tools = listed.model_dump(mode="json", by_alias=True, exclude_none=True)["tools"]
        assert len(json.dumps(tools, separators=(",", ":"), ensure_ascii=False)) <= most


async def test_tools_are_picked_by_name(era):
    server = server_with(tools=["fetch_urls", "get_operation"])
    async with Client(server, mode=era) as client:
        assert [t.name for t in (await client.list_tools()).tools] == [
            "fetch_urls",
            "get_operation",
        ]
        answer = await client.call_tool("compute_hash", {"data": "a"})
    assert answer.structured_content["data"]["error_code"] == "UNKNOWN_TOOL"


def test_an_unknown_tool_ends_the_start_with_the_list():
    with pytest.raises(ValueError, match=r"no tool is named 'fetch'; there are: get_con.*fetch_ur"):
        server_with(tools=["fetch"])


async def test_an_explicit_null_is_as_good_as_leaving_out(era):
    async with calling(server_with(), era) as call:
        answer = await call(
            "compute_hash", data="a", path=None, algorithm=None, timeout_seconds=None
        )
    assert answer["data"]["algorithm"] == "sha256"


async def test_the_tables_of_a_database_are_listed_without_sql(shop, era):
    async with calling(server_with(**shop), era) as call:
        answer = await call("query_database")
    ((table, columns, *_),) = answer["data"]["rows"]
    assert table == "items"
    assert columns.startswith("id INTEGER")
    assert "name TEXT" in columns


async def test_the_lines_of_a_description_begin_with_what_a_client_may_look_for(era, shop):
    async with connected(server_with(**shop), era) as client:
        tools = {tool.name: tool.description for tool in (await client.list_tools()).tools}
    assert tools["fetch_urls"].splitlines()[-3:] == [
        "Execution: async (I/O-bound)",
        "Concurrency: up to 10 in parallel, 1000 waiting; up to 50 in parallel on request",
        "Timeout: 50 s by default, 300 s at most",
    ]
    assert tools["query_database"].splitlines()[-2:] == [
        "Concurrency: up to 5 in parallel, 1000 waiting",
        "Timeout: 30 s by default, 300 s at most",
    ]


async def test_a_changed_limit_shows_in_description_cap_and_status(era):
    server = server_with()
    async with connected(server, era) as client:
        for capacity in (50, 7):
            server.state.limits.resize("fetch_urls", capacity)
            (listed,) = [t for t in (await server.list_tools()) if t.name == "fetch_urls"]
            assert f"up to {min(10, capacity)} in parallel" in listed.description
            assert listed.input_schema["properties"]["max_concurrent"]["maximum"] == capacity
            asked = {"urls": ["http://a/"], "max_concurrent": capacity + 1}
            answer = await client.call_tool("fetch_urls", asked)
            assert answer.structured_content["data"]["maximum"] == capacity
            status = await status_of(client)
            assert status["limits"]["fetch_urls"]["capacity"] == capacity


async def test_every_limit_in_the_status_is_one_that_work_holds_places_in(tmp_path, shop, era):
    (tmp_path / "lines.jsonl").write_text('"a"\n"b"\n')
    async with serving(answering(OK)) as site:
        server = server_with(
            toolset="patterns",
            file_roots=(tmp_path,),
            models_folder=tmp_path,
            fetch=FetchSettings(allow_private=True, ports=None),
            apis={"shop": ApiSettings(base_url=site.url)},
            **shop,
        )
        asked = {
            "fetch_urls": {"urls": [site.url]},
            "call_external_api": {"api": "shop", "path": "/"},
            "query_database": {"sql": "SELECT 1"},
            "compute_hash": {"text": "a"},
            "compress_data": {"text": "a"},
            "run_inference": {},
            "batch_process": {"operation": "hash", "items": ["a"]},
            "process_large_dataset": {"dataset": "lines.jsonl", "operation": "hash"},
            "rate_limited_operation": {"data": "a"},
            "parallel_fetch": {"items": [site.url]},
            "process_batch_streaming": {"items": ["a"]},
            "process_with_timeout": {"items": ["a"]},
            "query_with_timeout": {"query": "SELECT 1"},
            "cancellable_operation": {"items": ["a"]},
            "main_operation": {"data": {}},
        }
        async with connected(server, era) as client:
            names = {tool.name for tool in (await client.list_tools()).tools}
            assert names - set(asked) == {
                "get_concurrency_status",
                "get_operation",
                "cancel_operation",
            }
            for name, arguments in asked.items():
                answer = await client.call_tool(name, arguments)
                assert not answer.is_error, answer.content
            limits = (await status_of(client))["limits"]
    assert set(limits) == {
        "fetch_urls",
        "call_external_api",
        "query_database",
        "compute_hash",
        "compress_data",
        "run_inference",
        *PATTERNS,
    }
    assert [name for name, limit in limits.items() if not limit["finished"]] == []


async def test_the_status_tells_what_each_call_waits_for(autojump_clock):
    limits = {
        "nap": {"concurrency": 2, "max_concurrency": 2},
        "batch_process": {"max_calls": 2},
    }
    server, _ = nap_server(limits=limits)
    async with calling(server) as call, trio.open_nursery() as nursery:
        for name in ("first", "second", "third"):
            asked = {"operation": "nap", "items": [10, 10], "operation_id": name}
            nursery.start_soon(lambda asked=asked: call("batch_process", **asked))
            await trio.sleep(1)
        status = (await call("get_concurrency_status"))["data"]
        assert [each["waits_for"] for each in status["calls"]] == [
            "its 2 items in flight",
            "a slot",
            "its turn",
        ]
        assert status["limits"]["nap"]["in_use"] == 2
        assert status["limits"]["nap"]["waiting"] == 1
        assert status["lines"]["batch_process"]["waiting"] == 1
        first, second = status["operations"]
        assert first["deadline_left_seconds"] == 47.0
        assert (first["in_flight"], second["in_flight"]) == (2, 0)
        nursery.cancel_scope.cancel()


async def test_the_status_advises_from_what_it_saw(autojump_clock):
    server, _ = nap_server()
    async with calling(server) as call:
        await call("batch_process", operation="nap", items=[2.0] * 20)
        status = (await call("get_concurrency_status"))["data"]
    (advice,) = status["advice"]
    assert "about 200 fit into one call of 50 s with 10 in parallel" in advice
    assert status["durations"]["batch_process"] == {
        "calls": 1,
        "p50_seconds": 4.0,
        "p95_seconds": 4.0,
    }


async def test_waiting_in_line_counts_for_the_time_of_a_call(autojump_clock):
    server, _ = nap_server(limits={"batch_process": {"max_calls": 1}})
    answers = {}
    async with calling(server) as call:
        started = trio.current_time()

        async def run(name, timeout):
            asked = {"operation": "nap", "items": [8.0], "timeout_seconds": timeout}
            answer = await call("batch_process", **asked)
            answers[name] = (trio.current_time() - started, answer)

        async with trio.open_nursery() as nursery:
            for name, timeout in (("first", 50), ("second", 10), ("third", 5)):
                nursery.start_soon(run, name, timeout)
                await trio.testing.wait_all_tasks_blocked()
    assert [answers[name][0] for name in ("first", "second", "third")] == [8, 10, 5]
    second, third = answers["second"][1], answers["third"][1]
    assert second["data"]["counts"]["cancelled"] == 1
    assert second["data"]["timing"]["elapsed_seconds"] == 10.0
    assert third["data"]["error_type"] == "overloaded"
    assert "retry_after_seconds" in third["data"]


async def test_operations_of_an_application_are_registered_or_refused():
    trace = Trace()
    with pytest.raises(ValueError, match="two operations are named 'hash'"):
        create_server(Settings(), operations=[Operation(name="hash", fn=trace.nap)])
    for nameless in (len, functools.partial(trace.nap)):
        with pytest.raises(TypeError, match="is no operation"):
            create_server(Settings(), operations=[nameless])


def test_a_limit_for_what_there_is_not_is_refused():
    trace = Trace()
    limits = {"nap": {"max_calls": 2}, "parallel_fetch": {"max_calls": 2}}
    server_with(trace.nap, limits=limits)
    with pytest.raises(ValueError, match=r"limits\.nap: .* there are: batch_process, "):
        server_with(limits=limits)


async def test_a_tool_of_single_calls_declares_how_many_run_over_all_calls(shop):
    limits = {"query_database": {"concurrency": 1, "max_concurrency": 4}}
    async with connected(server_with(limits=limits, **shop)) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert "Concurrency: up to 4 in parallel, 1000 waiting" in tools["query_database"].description


async def test_the_time_of_an_item_has_a_default_and_a_cap_from_the_settings(autojump_clock):
    limits = {"batch_process": {"item_timeout_seconds": 2, "max_timeout_seconds": 60}}
    server, _ = nap_server(limits=limits)
    async with connected(server) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    asked = tools["batch_process"].input_schema["properties"]["item_timeout_seconds"]
    assert asked["maximum"] == 60
    async with calling(server) as call:
        usual = await call("batch_process", operation="nap", items=[1, 3])
        longer = await call("batch_process", operation="nap", items=[1, 3], item_timeout_seconds=4)
    assert usual["data"]["counts"]["timed_out"] == 1
    assert longer["data"]["counts"]["succeeded"] == 2


def test_a_default_time_of_an_item_above_its_cap_is_refused():
    with pytest.raises(ValueError, match=r"400\.0, above max_timeout_seconds"):
        Settings(limits={"batch_process": {"item_timeout_seconds": 400}})
