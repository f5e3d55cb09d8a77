"""The one table from what was raised to what the caller is told."""

import logging

import pytest
import trio

from nursery_patterns import Overloaded, WorkerCrashed, request_context
from tests.support.servers_in_memory import connected, envelope_of, nap_many, server_of
from trio_tools import errors
from trio_tools.answers.error_mapping import to_failure
from trio_tools.tools.call import Answer

FAILURES = {
    errors.InvalidArgument: ("validation", "INVALID_ARGUMENT"),
    errors.TimedOut: ("timeout", "TIMEOUT"),
    errors.ServerOverloaded: ("overloaded", "OVERLOADED"),
    errors.RateLimited: ("rate_limited", "RATE_LIMITED"),
    errors.NotFound: ("not_found", "NOT_FOUND"),
    errors.Forbidden: ("forbidden", "FORBIDDEN"),
    errors.UpstreamFailed: ("upstream", "UPSTREAM_FAILED"),
}


def bare(error):
    return error


def grouped(error):
    return ExceptionGroup("Exceptions from Trio nursery", [error])


def nested(error):
    return ExceptionGroup("outer", [grouped(grouped(error))])


WRAPPINGS = pytest.mark.parametrize("wrap", [bare, grouped, nested])


def raising(error):
    async def fail(call) -> Answer:
        """Fail."""
        raise error

    return fail


async def told(error, era="auto"):
    async with connected(server_of(raising(error)), era) as client:
        return await envelope_of(client, "fail")


@WRAPPINGS
@pytest.mark.parametrize("failure", FAILURES)
async def test_a_failure_is_told_as_it_is_also_from_inside_of_nurseries(failure, wrap, era):
    envelope = await told(wrap(failure("what to do", data={"bound": 3})), era)
    error_type, error_code = FAILURES[failure]
    assert envelope["error"] == "what to do"
    assert envelope["data"] == {
        "error_code": error_code,
        "error_type": error_type,
        "remediation": "what to do",
        "bound": 3,
    }


def test_the_failures_and_the_internal_one_are_all_kinds_there_are():
    kinds = {error_type for error_type, _ in FAILURES.values()}
    assert kinds | {"internal"} == set(errors.ErrorType)


@WRAPPINGS
async def test_a_full_queue_says_when_to_retry(wrap):
    envelope = await told(wrap(Overloaded("all taken", retry_after=2.34567)))
    assert envelope["error"].startswith(
        "This server has all the work it can take. Call again in 2.346 s."
    )
    assert envelope["data"]["error_type"] == "overloaded"
    assert envelope["data"]["retry_after_seconds"] == 2.346


@WRAPPINGS
async def test_a_deadline_is_a_timeout(wrap):
    envelope = await told(wrap(trio.TooSlowError()))
    assert envelope["data"]["error_type"] == "timeout"
    assert "request less" in envelope["error"]
    assert "timeout_seconds" not in envelope["error"]  # the tool has no such argument


@WRAPPINGS
async def test_a_dead_worker_is_an_upstream_failure(wrap):
    envelope = await told(wrap(WorkerCrashed("signal 9")))
    assert envelope["data"]["error_type"] == "upstream"
    assert envelope["data"]["error_code"] == "WORKER_CRASHED"
    assert "signal 9" not in str(envelope)


@WRAPPINGS
async def test_a_defect_shows_a_reference_and_is_logged_whole_exactly_once(wrap, era, caplog):
    envelope = await told(wrap(KeyError("a secret")), era)
    reference = envelope["meta"]["request_id"]
    assert envelope["error"] == (
        f"Something broke inside this server. Quote the reference {reference} to its operator. "
        "Try again; if it breaks again, tell the operator the reference."
    )
    assert envelope["data"] == {
        "error_code": "INTERNAL",
        "error_type": "internal",
        "remediation": "Try again; if it breaks again, tell the operator the reference.",
        "reference": reference,
    }
    assert "secret" not in str(envelope)
    [record] = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert reference in record.getMessage()
    assert record.exc_info[1] is not None
    assert record.exc_info[2] is not None, "the traceback is part of it"


async def test_a_tool_that_fails_in_a_nursery_does_not_surface_as_the_text_of_a_group():
    async def fail_inside(call) -> Answer:
        """Fail in a child task."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 60)
            raise errors.NotFound("there is no such thing")

    async with connected(server_of(fail_inside)) as client:
        result = await client.call_tool("fail_inside", {})
    assert [b.text for b in result.content] == ["NOT_FOUND: there is no such thing"]


def test_of_several_the_first_one_that_a_caller_can_act_on_is_told():
    group = ExceptionGroup(
        "both", [ValueError("a defect"), errors.NotFound("first"), errors.Forbidden("second")]
    )
    assert to_failure(group).message == "first"


def test_a_defect_beside_a_failure_is_logged_all_the_same(caplog):
    defect = ValueError("a defect")
    to_failure(ExceptionGroup("both", [errors.NotFound("not here"), defect]))
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert defect in record.exc_info[1].exceptions


def test_a_defect_outside_of_any_request_has_no_reference(caplog):
    assert to_failure(ValueError()).data == {"reference": "none"}


async def test_a_defect_in_an_item_is_told_as_a_reference_too(autojump_clock, caplog):
    async with connected(server_of(nap_many)) as client:
        envelope = await envelope_of(client, "nap_many", {"items": [1, -1]})
    [error] = envelope["data"]["errors"]
    assert error["item"] == -1
    assert error["error_code"] == "INTERNAL"
    assert envelope["meta"]["request_id"] in error["reason"]
    assert "the text of a defect" not in str(envelope)
    assert "the text of a defect" in caplog.text


async def test_the_server_goes_on_after_a_defect(era, caplog):
    async with connected(server_of(raising(KeyError())), era) as client:
        for _ in range(3):
            assert (await envelope_of(client, "fail"))["success"] is False
        assert (await envelope_of(client, "get_concurrency_status"))["success"] is True


async def test_a_failure_is_named_by_its_own_words():
    with request_context("req"):
        failure = errors.Forbidden("closed", error_code="DOOR", remediation="open it")
        assert to_failure(failure) is failure
    assert str(failure) == "closed"
