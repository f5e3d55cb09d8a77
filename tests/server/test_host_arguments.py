"""Calls as hosts send them are taken as they are meant."""

import pytest

from tests.support.servers_in_memory import call_as
from trio_tools.server import create_server
from trio_tools.settings import Settings

TAKEN = [
    ("compute_hash", {"text": "a", "algorithm": None}),
    ("compute_hash", {"text": "a", "path": ""}),
    ("compute_hash", {"text": ""}),
    ("compute_hash", {"text": "a", "toolCallId": "call_1", "sessionId": "s"}),
    ("batch_process", {"operation": "hash", "items": ["a"], "operation_id": ""}),
    ("batch_process", {"operation": "hash", "items": ["a"], "timeout_seconds": None}),
    ("get_concurrency_status", {"random_string": "dummy"}),
]
REFUSED = [
    ("compute_hash", {"text": "a", "algoritm": "md5"}),
    ("compute_hash", {"text": "a", "requestID": "1"}),
    ("batch_process", {"operation": None, "items": ["a"]}),
    ("batch_process", {"operation": "hash", "items": ""}),
]


@pytest.mark.parametrize(("tool", "arguments"), TAKEN)
async def test_what_is_not_given_and_what_hosts_add_changes_nothing(tool, arguments):
    envelope = await call_as(create_server(Settings()), "me", tool, arguments)
    assert envelope["success"], envelope["error"]


@pytest.mark.parametrize(("tool", "arguments"), REFUSED)
async def test_everything_else_is_refused_as_before(tool, arguments):
    envelope = await call_as(create_server(Settings()), "me", tool, arguments)
    assert envelope["data"]["error_code"] == "INVALID_ARGUMENT"


async def test_what_hosts_add_is_a_setting():
    server = create_server(Settings(ignored_arguments={"trace"}))
    arguments = {"text": "a", "trace": "1"}
    assert (await call_as(server, "me", "compute_hash", arguments))["success"]
    assert not (await call_as(server, "me", "compute_hash", {"text": "a", "sessionId": "1"}))[
        "success"
    ]
