"""The log of the command line: the format of its lines, for all records."""

import json
import subprocess
import sys

import pytest

from tests.test_architecture import ROOT

RECORDS = """
import logging, sys, warnings
import trio
from nursery_patterns import request_context
from trio_tools.settings.logs import configure_logging

async def main():
    with request_context("the-request", "the-client"):
        log = logging.getLogger("some.library")
        log.warning("one\\nforged \\x1b[31m \\u2028 %s", "two")
        warnings.warn("a warning of Python")
        try:
            raise ValueError("a\\ndefect")
        except ValueError:
            log.exception("it broke")
        for name in ("mcp.server", "sse_starlette.sse"):
            logging.getLogger(name).info("of each request")
        log.debug("the last")

configure_logging(sys.argv[1], "debug")
trio.run(main)
"""


@pytest.fixture
def lines(request):
    """What the records come to in the format of the test."""
    command = [sys.executable, "-c", RECORDS, request.param]
    done = subprocess.run(command, capture_output=True, check=True, text=True, cwd=ROOT)
    return done.stderr.split("\n")[:-1]


@pytest.mark.parametrize("lines", ["json"], indirect=True)
def test_in_json_each_record_is_one_line_with_the_request(lines):
    records = [json.loads(line) for line in lines]
    first, warning, broken, last = records
    assert first["message"] == "one\nforged \x1b[31m \u2028 two"
    assert (warning["logger"], warning["level"]) == ("py.warnings", "warning")
    assert "a warning of Python" in warning["message"]
    assert broken["exception"].endswith("ValueError: a\ndefect")
    assert last["message"] == "the last"
    for record in records:
        assert (record["request_id"], record["client_id"]) == ("the-request", "the-client")
        assert record["elapsed"] >= 0


@pytest.mark.parametrize("lines", ["text"], indirect=True)
def test_in_text_no_message_makes_a_line_of_its_own(lines):
    ours = [line for line in lines if "[the-request the-client 0." in line]
    assert len(ours) == 4
    assert ours[0].endswith(r"] one\nforged \x1b[31m \u2028 two")
    traceback = lines[lines.index(ours[2]) + 1 : lines.index(ours[3])]
    assert traceback[0] == "Traceback (most recent call last):"
    assert set(lines) == {*ours, *traceback}
