"""Bad input nearly as large as a request may be: the answer is short, and no step of it is long.

That no step is too long is seen to by `connected`. A request of HTTP may have 4 MiB; half of that
is sent here, since the client's share of the work falls into the same steps.
"""

import json
import logging

import pytest

from tests.support.followed_operations import server_with
from tests.support.servers_in_memory import connected
from trio_tools.answers.errors import MAX_MESSAGE_CHARS, InvalidArgument, brief_repr
from trio_tools.operations.operation import Operation

MANY = 500_000
LONG = "x" * 2_000_000
NAMES = {f"{n:x}": 0 for n in range(125_000)}
ONES = [1] * 1_000_000
URL = "https://example.org/"
LINES = {"dataset": "lines.jsonl", "operation": "hash"}


def sql(text, **more):
    return "query_database", {"sql": text, **more}


def api(**more):
    return "call_external_api", {"api": "x", "path": "/", **more}


def batch(operation, *items, **more):
    return "batch_process", {"operation": operation, "items": list(items), **more}


BAD = {
    "a list of what is no text": ("fetch_urls", {"urls": ONES}),
    "a list that is too long": ("fetch_urls", {"urls": ["a"] * MANY}),
    "a list that is too long, as text": ("fetch_urls", {"urls": json.dumps(["a"] * MANY)}),
    "a list of many as text": ("fetch_urls", {"urls": f"[{'{},' * 1_000_000}{{}}]"}),
    "a list as text, without an end": ("fetch_urls", {"urls": "[" * 2_000_000}),
    "a text for a list": ("fetch_urls", {"urls": LONG}),
    "a list of lists": ("fetch_urls", {"urls": [[1] * 1_000] * 1_000}),
    "names of no arguments": ("compute_hash", NAMES),
    "long names of no arguments": ("compute_hash", {f"{n}{'y' * 200_000}": n for n in range(10)}),
    "an object for a text": ("compute_hash", {"text": NAMES}),
    "a list for a number": ("fetch_urls", {"urls": [URL], "max_concurrent": ONES}),
    "a text for a number": ("fetch_urls", {"urls": [URL], "max_concurrent": LONG}),
    "headers of numbers": ("fetch_urls", {"urls": [URL], "headers": NAMES}),
    "many headers": ("fetch_urls", {"urls": [URL], "headers": dict.fromkeys(NAMES, "")}),
    "a long header for many URLs": ("fetch_urls", {"urls": [URL] * 1_000, "headers": {"x": LONG}}),
    "a header of a long name": ("fetch_urls", {"urls": [URL], "headers": {LONG: 1}}),
    "a query of numbers": api(query={"x": ONES}),
    "a query of lists of numbers": api(query={name: [1] for name in NAMES}),
    "a long query": api(query={"x": ["y"] * MANY}),
    "a long text in a query": api(query={"x": LONG}),
    "a long path of an API": api(path="/%25" * MANY),
    "a long method": api(method=LONG),
    "an API of a long name": api(api=LONG),
    "a long name of an algorithm": ("compute_hash", {"text": "x", "algorithm": LONG}),
    "a long path": ("compute_hash", {"path": "a/" * 1_000_000}),
    "a path of a long name": ("compute_hash", {"path": "x" * 4_000}),
    "a path of many dots": ("compress_data", {"path": "../" * 600_000}),
    "no base64": ("compress_data", {"content_base64": "%" * 2_000_000}),
    "a long statement": sql(LONG),
    "a statement of many words": sql("a " * 50_000),
    "a statement of many signs": sql("%" * 100_000),
    "many parameters too few": sql(" ".join(f":p{n}" for n in range(12_000))),
    "many parameters too many": sql("SELECT 1", parameters=NAMES),
    "a parameter that is a list": sql("SELECT :a", parameters={"a": ONES}),
    "a database of a long name": sql("SELECT 1", database=LONG),
    "a long cursor of rows": sql("SELECT 1", cursor=LONG),
    "an operation of a long name": batch(LONG, 1),
    "items that are too many": batch("nap", *ONES),
    "items that are all wrong": batch("nap", *["y" * 1_900] * 1_000),
    "an item of many fields": batch("fetch", {"url": URL, **NAMES}),
    "items of many headers": batch("fetch", {"url": URL, "headers": NAMES}),
    "items with a long query": batch("call_api", {"api": "x", "path": "/", "query": {"a": ONES}}),
    "a long operation id": batch("nap", 1, operation_id=LONG),
    "an id of no operation": ("get_operation", {"operation_id": LONG}),
    "a long cursor": ("get_operation", {"operation_id": "x", "cursor": LONG}),
    "an id to cancel": ("cancel_operation", {"operation_id": LONG}),
    "an argument of the status": ("get_concurrency_status", {LONG: 1}),
    "a long name of a dataset": ("process_large_dataset", {**LINES, "dataset": LONG}),
    "a long cursor of a dataset": ("process_large_dataset", {**LINES, "cursor": LONG}),
    "many fields": ("process_large_dataset", {**LINES, "fields": NAMES}),
    "long options": ("process_large_dataset", {**LINES, "options": {"algorithm": LONG}}),
    "many options": ("process_large_dataset", {**LINES, "options": NAMES}),
    "a model of a long name": ("run_inference", {"model": "a/" * 1_000_000, "inputs": {}}),
    "inputs of no model": ("run_inference", {"model": "none", "inputs": {"x": ONES}}),
    "a tool of a long name": (LONG, {}),
}


@pytest.fixture
def house(tmp_path, shop):
    async def nap(seconds: float) -> float:
        raise AssertionError("it is not called with what is wrong")

    (tmp_path / "lines.jsonl").write_text('"a"\n' * 3)
    return server_with(
        Operation(name="nap", fn=nap),
        file_roots=(tmp_path,),
        models_folder=tmp_path,
        apis={"x": {"base_url": "http://127.0.0.1:9"}},
        **shop,
    )


@pytest.mark.parametrize("case", BAD)
async def test_the_answer_to_large_bad_input_is_short_and_soon_made(house, case, caplog):
    caplog.set_level(logging.INFO, "trio_tools")
    name, arguments = BAD[case]
    async with connected(house):
        # Called on the server itself: what a client makes of the request is not the server's time.
        result = await house.call_tool(name, arguments)
    assert result.is_error
    envelope = result.structured_content
    assert envelope["data"]["error_type"] in {"validation", "not_found", "forbidden"}
    assert len(envelope["error"]) <= MAX_MESSAGE_CHARS
    most = 400_000 if "all wrong" in case or "of lists" in case else 12_000
    assert len(result.model_dump_json()) <= most
    assert max(len(record.getMessage()) for record in caplog.records) <= MAX_MESSAGE_CHARS + 200


@pytest.mark.parametrize("urls", [["ftp://" + "x" * 1_900] * 1_000, [LONG], [LONG, "x y"]])
async def test_urls_that_are_none_fail_each_alone_and_the_answer_is_short(house, urls):
    async with connected(house):
        result = await house.call_tool("fetch_urls", {"urls": urls})
    assert not result.is_error
    assert result.structured_content["data"]["counts"]["failed"] == len(urls)
    assert len(json.dumps(result.structured_content)) <= house.state.settings.max_output_chars
    assert len(result.content[0].text) <= house.state.settings.max_output_chars


async def test_the_first_problems_are_told_and_the_number_of_the_others(house):
    arguments = {"urls": [1] * 1_000, "a": 1, "b": 2, "timeout_seconds": "soon"}
    result = await house.call_tool("fetch_urls", arguments)
    problems = result.structured_content["data"]["problems"]
    assert problems[0].startswith("a, b are no arguments of fetch_urls, which takes urls, method")
    assert problems[1].startswith("urls.0: ")
    assert problems[10].startswith("urls.9: ")
    assert problems[11:] == ["991 more problems"]
    assert result.structured_content["error"].endswith(
        "; 991 more problems. Correct that and call fetch_urls again."
    )


async def test_of_many_unknown_names_the_first_are_told_and_the_number_of_the_others(house):
    result = await house.call_tool("compute_hash", {"text": "x", **NAMES})
    (problem,) = result.structured_content["data"]["problems"]
    assert problem == (
        "0, 1, 2, 3, 4, 124,995 more names are no arguments of compute_hash, which takes data, "
        "path, text, algorithm, timeout_seconds"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a'b", '"a\'b"'),
        (5, "5"),
        (True, "True"),
        (None, "None"),
        (1.5, "1.5"),
        ([1, "a"], "[1, 'a']"),
        ("x" * 1_000, f"'{'x' * 37}...{'x' * 38}'"),
        (ONES, "[1, 1, 1, 1, 1, 1, ...]"),
        (NAMES, "{'0': 0, '1': 0, '2': 0, '3': 0, ...}"),
        ({"b": 1, "a": [[ONES]]}, "{'a': [[[1, 1, 1, 1, 1, 1, ...]]], 'b': 1}"),
    ],
    ids=["text", "number", "truth", "null", "share", "list", "long", "ones", "names", "nested"],
)
def test_what_a_message_quotes_is_short(value, text):
    assert brief_repr(value) == text
    assert len(text) <= 80


def test_of_a_long_message_the_beginning_and_the_end_are_kept():
    failure = InvalidArgument(f"path {LONG} is wrong: correct it", remediation=LONG)
    assert len(failure.message) <= MAX_MESSAGE_CHARS
    assert failure.message.startswith("path xxx")
    assert failure.message.endswith("x is wrong: correct it")
    assert str(failure) == failure.message
    assert len(failure.user_message) <= 2 * MAX_MESSAGE_CHARS
    exact = "y" * MAX_MESSAGE_CHARS
    assert InvalidArgument(exact).message == exact
