"""Bad input: a clear error of the right kind, nothing left running, and the server goes on.

What any tool refuses about its arguments (wrong types, caps, unknown names) is in
`tests/server/test_arguments.py`.
"""

import base64
import zlib

import pytest

from tests.support.followed_operations import ENDLESS, Trace, server_with, threads_at_work
from tests.support.servers_in_memory import connected, envelope_of, status_of, values_of
from trio_tools.operations.operation import Operation

NO_TEXT = base64.b64encode(zlib.compress(b"\xff\xfe")).decode()


def sql(statement, **more):
    return "query_database", {"sql": statement, **more}


def nap(*items, **more):
    return "batch_process", {"operation": "nap", "items": list(items), **more}


# What is sent; the kind and the code of the answer; the argument, the bound and the fix it names.
WRONG = {
    "SQL that writes": (
        sql("DELETE FROM items"),
        ("forbidden", "READ_ONLY"),
        ["sql", "can only be read", "one statement that only reads: SELECT"],
    ),
    "SQL that writes behind a WITH": (
        sql("WITH one AS (SELECT 1) INSERT INTO items SELECT 99, 'x' FROM one"),
        ("forbidden", "READ_ONLY"),
        ["sql", "can only be read", "one statement that only reads: SELECT"],
    ),
    "several statements": (
        sql("SELECT 1; SELECT 2"),
        ("validation", "SEVERAL_STATEMENTS"),
        ["sql", "several statements", "one by one"],
    ),
    "a statement that never ends": (
        sql(ENDLESS, timeout_seconds=0.3),
        ("timeout", "TIMEOUT"),
        ["within 0.3 s", "timeout_seconds", "at most 300", "or ask for less"],
    ),
    "a value of 1 GB": (
        sql("SELECT hex(zeroblob(1e9))"),
        ("validation", "TOO_LARGE"),
        ["sql", "larger than 1,000,000 bytes", "length(...)"],
    ),
    "SQL that is none": (
        sql("SELEC 1"),
        ("validation", "BAD_SQL"),
        ["sql", 'near "SELEC"', "correct it"],
    ),
    "a parameter without a value": (
        sql("SELECT :n"),
        ("validation", "BAD_PARAMETERS"),
        ["parameters", "no value for :n"],
    ),
    "too many rows": (
        sql("SELECT 1", max_rows=10_001),
        ("validation", "INVALID_ARGUMENT"),
        ["max_rows", "less than or equal to 10000", "got 10001"],
    ),
    "a cursor of rows that is none": (
        sql("SELECT 1", cursor="AAAA"),
        ("validation", "INVALID_CURSOR"),
        ["cursor", "call again without cursor"],
    ),
    "an operation that expired": (
        ("get_operation", {"operation_id": "op_gone"}),
        ("not_found", "UNKNOWN_OPERATION_ID"),
        ["'op_gone'", "more than 3600 s ago", "Call the batch tool again"],
    ),
    "an unknown operation": (
        ("batch_process", {"operation": "nope", "items": [1]}),
        ("not_found", "UNKNOWN_OPERATION"),
        ["operation", "'nope'", "fetch, call_api, hash", "nap"],
    ),
    "an unknown operation over a dataset": (
        ("process_large_dataset", {"operation": "nope", "dataset": "items"}),
        ("not_found", "UNKNOWN_OPERATION"),
        ["operation", "'nope'", "fetch, call_api, hash", "nap"],
    ),
    "items that do not match": (
        nap(1, "x", 2, None, {"seconds": 1}),
        ("validation", "INVALID_ITEMS"),
        ["3 of 5 items", "items[1]", "items[3]", "items[4]", "Correct them", "Nothing was run"],
    ),
    "more items than there may be": (
        nap(*[0] * 1_001),
        ("validation", "INVALID_ARGUMENT"),
        ["items", "1 to 1000", "got 1001", "split them"],
    ),
    "more time for an item than there may be": (
        nap(1, item_timeout_seconds=301),
        ("validation", "INVALID_ARGUMENT"),
        ["item_timeout_seconds", "at most 300", "got 301", "lower it"],
    ),
    "a truth value for a number": (
        nap(1, max_concurrent=True),
        ("validation", "INVALID_ARGUMENT"),
        ["max_concurrent", "is a number", "got True"],
    ),
    "no time at all for a statement": (
        sql("SELECT 1", timeout_seconds=1e-9),
        ("validation", "INVALID_ARGUMENT"),
        ["timeout_seconds", "greater than or equal to 0.001"],
    ),
    "no time at all": (
        nap(1, timeout_seconds=1e-9),
        ("validation", "INVALID_ARGUMENT"),
        ["timeout_seconds", "greater than or equal to 0.001"],
    ),
    "an argument of a tool without any": (
        ("get_concurrency_status", {"x": 1}),
        ("validation", "INVALID_ARGUMENT"),
        ["x is no argument", "which takes none"],
    ),
    "items that are a lone surrogate": (
        ("batch_process", {"operation": "hash", "items": [{"text": "\ud800"}]}),
        ("validation", "NOT_TEXT"),
        ["items", "a lone surrogate", "Nothing was run"],
    ),
    "SQL that is a lone surrogate": (
        sql("SELECT '\ud800'"),
        ("validation", "INVALID_ARGUMENT"),
        ["sql"],
    ),
    "a model file that is none": (
        ("run_inference", {"model": "bad", "inputs": {}}),
        ("validation", "NOT_A_MODEL"),
        ["bad.onnx", "not a usable ONNX model", "name another model"],
    ),
    "compressed text that is no text": (
        ("compress_data", {"content_base64": NO_TEXT, "algorithm": "zlib"}),
        ("validation", "NOT_TEXT"),
        ["content_base64", "2 bytes", "not UTF-8 text", "only texts"],
    ),
    "compressed text that expands to too much": (
        (
            "compress_data",
            {
                "content_base64": base64.b64encode(zlib.compress(b"a" * 10**7)).decode(),
                "algorithm": "zlib",
            },
        ),
        ("validation", "TOO_LARGE"),
        ["content", "40,000"],
    ),
}


@pytest.fixture
def make_house(tmp_path, shop):
    """Return what makes a server that has one of everything, and the trace of its naps."""
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    (tmp_path / "lines.jsonl").write_text('"a"\n' * 3)

    def make():
        trace = Trace()
        naps = Operation(name="nap", fn=trace.nap)
        return server_with(naps, models_folder=tmp_path, file_roots=(tmp_path,), **shop), trace

    return make


@pytest.fixture
def house(make_house):
    return make_house()


async def check_that_all_is_well(client, trace):
    """See that nothing is at work, and that the next call is answered."""
    status = await status_of(client)
    assert (status["calls"], status["operations"]) == ([], [])
    assert status["work_for_departed_callers"] == 0
    assert {limit["in_use"] for limit in status["limits"].values()} <= {0}
    assert threads_at_work() == []
    assert trace.begun == []
    good = await envelope_of(client, *sql("SELECT count(*) FROM items"))
    assert good["data"]["rows"] == [[10]]


async def test_bad_input_is_told_with_argument_bound_and_fix_and_leaves_nothing(house, era):
    pytest.importorskip("onnxruntime", reason="the extra `inference` is not installed")
    server, trace = house
    async with connected(server, era) as client:
        for case, ((tool, arguments), expected, words) in WRONG.items():
            answer = await envelope_of(client, tool, arguments)
            told = f"{answer['error']} {answer['data']['remediation']}"
            code = (answer["data"]["error_type"], answer["data"]["error_code"])
            assert (case, code) == (case, expected)
            assert (case, [word for word in words if word not in told]) == (case, []), told
            await check_that_all_is_well(client, trace)


async def test_all_items_that_do_not_match_are_named_at_once(house, era):
    server, trace = house
    items = [0, *["x"] * 400, 1, *[None] * 400]
    async with connected(server, era) as client:
        answer = await envelope_of(client, *nap(*items))
        wrong = [each["index"] for each in answer["data"]["invalid_items"]]
        assert wrong == [*range(1, 401), *range(402, 802)]
        assert answer["data"]["item_schema"]["type"] == "number"
        await check_that_all_is_well(client, trace)


CURSORS = {
    "query_database": {"sql": "SELECT id FROM items ORDER BY id", "max_rows": 1},
    "get_operation": {"operation_id": "mine", "page_size": 1},
    "process_large_dataset": {"dataset": "lines.jsonl", "operation": "hash", "chunk_size": 1},
}


async def test_a_cursor_that_was_changed_or_is_too_old_is_refused(make_house, era):
    async def first_cursors(client):
        texts = {"operation": "hash", "items": ["a", "b"], "operation_id": "mine"}
        await envelope_of(client, "batch_process", texts)
        return {
            tool: (await envelope_of(client, tool, arguments))["meta"]["pagination"]["cursor"]
            for tool, arguments in CURSORS.items()
        }

    async with connected(make_house()[0], era) as client:
        of_before_a_restart = await first_cursors(client)
    server, trace = make_house()
    async with connected(server, era) as client:
        for tool, good in (await first_cursors(client)).items():
            tampered = good[:-9] + ("B" if good[-9] == "A" else "A") + good[-8:]
            for bad in (tampered, of_before_a_restart[tool]):
                answer = await envelope_of(client, tool, {**CURSORS[tool], "cursor": bad})
                assert answer["data"]["error_type"] == "validation", tool
                assert answer["data"]["error_code"] == "INVALID_CURSOR", tool
                assert "cursor" in answer["error"], tool
                assert "call again without cursor" in answer["error"], tool
                await check_that_all_is_well(client, trace)
            right = await envelope_of(client, tool, {**CURSORS[tool], "cursor": good})
            assert right["success"], tool


async def test_a_batch_inside_of_a_batch_is_told_what_to_do_instead(era):
    async def nest(item: int) -> object:
        inner = await server.call_tool("batch_process", {"operation": "nest", "items": [item]})
        return inner.structured_content

    server = server_with(nest)
    async with connected(server, era) as client:
        asked = {"operation": "nest", "items": [1, 2]}
        answer = await envelope_of(client, "batch_process", asked)
        assert len(values_of(answer["data"])) == 2
        for inner in values_of(answer["data"]):
            assert inner["data"]["error_type"] == "validation"
            assert inner["data"]["error_code"] == "NESTED_BATCH"
            for word in ("'nest'", "batch_process", "give all items to one batch"):
                assert word in inner["error"]
        status = await status_of(client)
        assert (status["calls"], status["operations"]) == ([], [])
        assert status["limits"]["nest"]["in_use"] == 0
        assert (await envelope_of(client, "compute_hash", {"text": "x"}))["success"]
