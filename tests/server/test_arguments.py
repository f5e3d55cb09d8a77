"""Bad input is an answer that names the argument, the bound and the fix; the server goes on."""

import math

import pytest
from mcp.client import Client

from tests.support.servers_in_memory import (
    call_as,
    connected,
    envelope_of,
    limits,
    nap_many,
    server_of,
    tool,
    work,
)
from trio_tools.answers.errors import InvalidArgument
from trio_tools.server import create_server
from trio_tools.settings import Settings
from trio_tools.tools.call import Answer
from trio_tools.tools.catalog import tools_of

ONE_URL = ["https://example.org/"]


@pytest.fixture
async def client(era, tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "file.txt").write_text("inside")
    (tmp_path / "outside.txt").write_text("outside")
    settings = Settings(file_roots=(tmp_path / "root",), max_items=3)
    async with Client(create_server(settings), mode=era) as connected_client:
        yield connected_client


# What is sent, the kind of failure, and what the message must name.
WRONG = {
    "an empty list": ("fetch_urls", {"urls": []}, "validation", ["urls", "1 to 3", "at least one"]),
    "an oversized list": (
        "fetch_urls",
        {"urls": ONE_URL * 4},
        "validation",
        ["urls", "1 to 3", "got 4", "split"],
    ),
    "wrong type": ("fetch_urls", {"urls": 5}, "validation", ["urls", "list", "got 5"]),
    "wrong type inside": ("fetch_urls", {"urls": [5]}, "validation", ["urls.0", "string", "got 5"]),
    "missing": ("fetch_urls", {}, "validation", ["urls is missing"]),
    "unknown argument": (
        "fetch_urls",
        {"urls": ONE_URL, "speed": 9},
        "validation",
        ["speed is no argument of fetch_urls", "max_concurrent"],
    ),
    "concurrency past the cap": (
        "fetch_urls",
        {"urls": ONE_URL, "max_concurrent": 51},
        "validation",
        ["max_concurrent", "at most 50", "got 51", "lower it"],
    ),
    "no concurrency": (
        "fetch_urls",
        {"urls": ONE_URL, "max_concurrent": 0},
        "validation",
        ["max_concurrent", "greater than 0", "got 0"],
    ),
    "time past the cap": (
        "fetch_urls",
        {"urls": ONE_URL, "timeout_seconds": 301},
        "validation",
        ["timeout_seconds", "at most 300", "got 301", "lower it"],
    ),
    "negative time": (
        "fetch_urls",
        {"urls": ONE_URL, "timeout_seconds": -1},
        "validation",
        ["timeout_seconds", "greater than or equal to 0.001", "got -1"],
    ),
    "no item time": (
        "fetch_urls",
        {"urls": ONE_URL, "item_timeout_seconds": 0},
        "validation",
        ["item_timeout_seconds", "greater than 0"],
    ),
    "unknown choice": (
        "fetch_urls",
        {"urls": ONE_URL, "body_as": "poetry"},
        "validation",
        ["body_as", "'markdown'", "got 'poetry'"],
    ),
    "unknown algorithm": (
        "compute_hash",
        {"text": "x", "algorithm": "sha0"},
        "validation",
        ["algorithm", "sha0", "sha256"],
    ),
    "neither of two": ("compute_hash", {}, "validation", ["text", "path", "exactly one"]),
    "both of two": (
        "compute_hash",
        {"text": "x", "path": "y"},
        "validation",
        ["text", "path", "exactly one"],
    ),
    "a file outside the roots": (
        "compute_hash",
        {"path": "../outside.txt"},
        "forbidden",
        ["outside.txt", "file_roots"],
    ),
    "an absolute path outside the roots": (
        "compute_hash",
        {"path": "/etc/passwd"},
        "forbidden",
        ["/etc/passwd", "file_roots"],
    ),
    "a missing file": ("compute_hash", {"path": "none.txt"}, "not_found", ["none.txt"]),
    "an unknown tool": (
        "fetch_everything",
        {},
        "not_found",
        ["'fetch_everything'", "fetch_urls", "compute_hash"],
    ),
    "an argument too many": (
        "get_concurrency_status",
        {"verbose": True},
        "validation",
        ["verbose is no argument of get_concurrency_status"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
async def test_bad_input_is_answered_with_the_argument_the_bound_and_the_fix(client, case):
    name, arguments, error_type, words = WRONG[case]
    envelope = await envelope_of(client, name, arguments)
    assert envelope["data"]["error_type"] == error_type, envelope
    told = f"{envelope['error']} {envelope['data']['remediation']}"
    assert [word for word in words if word not in told] == []
    assert "pydantic" not in str(envelope)
    assert (await envelope_of(client, "compute_hash", {"text": "x"}))["success"] is True


async def test_a_url_that_is_none_is_an_item_that_failed_beside_its_siblings(client):
    urls = ["ftp://example.org/", "http://127.0.0.1:9/", "x y"]
    envelope = await envelope_of(client, "fetch_urls", {"urls": urls})
    errors = envelope["data"]["errors"]
    assert [list(error) for error in errors] == [
        ["index", "item", "status", "error_code", "reason"]
    ] * 3
    assert [(error["index"], error["item"], error["status"]) for error in errors] == [
        (index, url, "failed") for index, url in enumerate(urls)
    ]
    codes = [error["error_code"] for error in errors]
    assert (codes[0], codes[2]) == ("BLOCKED_SCHEME", "INVALID_URL")
    assert "http" in errors[0]["reason"]
    assert "https://" in errors[2]["reason"]


async def test_a_private_address_is_an_item_that_failed_beside_its_siblings(client):
    envelope = await envelope_of(client, "fetch_urls", {"urls": ["http://127.0.0.1:8080/"]})
    [error] = envelope["data"]["errors"]
    assert error["item"] == "http://127.0.0.1:8080/"
    assert error["error_code"] == "BLOCKED_ADDRESS"
    assert "127.0.0.1" in error["reason"]


async def test_a_cap_of_the_operator_is_the_one_that_is_named():
    settings = limits("nap_many", concurrency=2, max_timeout_seconds=40.0) | {"max_items": 7}
    async with connected(server_of(nap_many, **settings)) as client:
        envelope = await envelope_of(client, "nap_many", {"items": [0] * 8})
        assert envelope["data"] | {"maximum": 7, "argument": "items"} == envelope["data"]
        envelope = await envelope_of(client, "nap_many", {"items": [0], "timeout_seconds": 41})
        assert envelope["data"]["maximum"] == 40.0
        assert envelope["data"]["argument"] == "timeout_seconds"


@pytest.mark.parametrize("timeout", [math.nan, math.inf])
async def test_a_number_that_is_none_is_refused(timeout):
    # Called directly: the client's own JSON has no such numbers.
    arguments = {"items": [0], "timeout_seconds": timeout}
    envelope = await call_as(server_of(nap_many), "anyone", "nap_many", arguments)
    assert envelope["data"]["error_type"] == "validation"
    assert "timeout_seconds" in envelope["error"]


async def test_all_bad_arguments_are_named_at_once_and_long_values_are_cut():
    async with connected(server_of(nap_many)) as client:
        envelope = await envelope_of(
            client, "nap_many", {"items": "x" * 10_000, "max_concurrent": "many", "colour": 1}
        )
    assert len(envelope["data"]["problems"]) == 3
    assert len(envelope["error"]) < 600


async def test_lists_and_objects_may_come_as_json_inside_of_a_string(era, autojump_clock):
    async def merge(call, *, names: list[str], table: dict[str, int] | None = None) -> Answer:
        """Take a list and an object."""
        return Answer(summary="merged", data={"names": names, "table": table})

    async with connected(server_of(merge), era) as client:
        envelope = await envelope_of(client, "merge", {"names": '["a", "b"]', "table": '{"c": 1}'})
        assert envelope["data"] == {"names": ["a", "b"], "table": {"c": 1}}
        envelope = await envelope_of(client, "merge", {"names": '["a", '})
        assert envelope["error"].startswith("names: ")


async def test_a_text_that_looks_like_json_stays_a_text(autojump_clock):
    async with connected(server_of(work)) as client:
        envelope = await envelope_of(client, "work", {"text": "[1, 2]"})
    assert envelope["data"] == {"text": "[1, 2]"}


async def test_items_that_do_not_fit_are_all_named_and_none_is_run(autojump_clock):
    async with connected(server_of(nap_many)) as client:
        envelope = await envelope_of(client, "nap_many", {"items": [1, "soon", 2, "later"]})
    assert envelope["data"]["error_type"] == "validation"
    assert envelope["meta"]["telemetry"]["elapsed_seconds"] == 0.0
    assert "items.1" in envelope["error"]
    assert "items.3" in envelope["error"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"settings": 3}, "settings must be a Settings object, got 3: "),
        ({"settings": {"a": 1}}, "settings must be a Settings object, got {'a': 1}: "),
        ({"settings": {}}, "settings must be a Settings object, got {}: "),
        ({"operations": 3}, "operations must be a list of operations, got 3: "),
    ],
)
def test_a_server_of_the_wrong_things_is_refused_with_the_right_call(arguments, message):
    with pytest.raises(TypeError) as caught:
        create_server(**arguments)
    right = {"settings": "Settings(max_items=100)", "operations": "operations=[word_count]"}
    (name,) = arguments
    assert str(caught.value) == f"{message}write create_server({right[name]})"


def numbers_of_all_tools():
    for each in tools_of("patterns"):
        for name, schema in each.schema(None)["properties"].items():
            kinds = {kind.get("type") for kind in schema.get("anyOf", [schema])}
            if kinds & {"integer", "number"}:
                yield pytest.param(each, name, id=f"{each.name}-{name}")


@pytest.mark.parametrize(("each", "name"), list(numbers_of_all_tools()))
def test_a_truth_value_is_no_number_of_any_tool(each, name):
    for truth in (True, False):
        with pytest.raises(InvalidArgument, match=rf"{name}: is a number, got {truth}"):
            each.check({name: truth}, max_items=1_000)


def test_a_tool_may_take_a_truth_value_beside_a_number():
    async def either(call, *, value: bool | int) -> Answer:
        """Take either."""

    assert tool(either).check({"value": True}, max_items=1) == {"value": True}
