"""THE table from exceptions to the errors that callers see, for whole calls and for single items.

An exception that is not in the table is a defect of this server or of an operation. It is logged
with its traceback, and the caller gets a reference to that log record instead of its text.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import trio

from nursery_patterns import (
    ClusterError,
    NestedBatch,
    Outcome,
    Overloaded,
    Status,
    WorkerCrashed,
    current_request,
)
from trio_tools.answers.errors import (
    ErrorType,
    InvalidArgument,
    ServerOverloaded,
    TimedOut,
    ToolFailure,
    UpstreamFailed,
)
from trio_tools.answers.shortages import is_shortage, local_shortage

_log = logging.getLogger("trio_tools")


def to_failure(error: Exception) -> ToolFailure:
    """Return the failure to report for `error`, which may be a group of several.

    For a group it is the first failure that a caller can act on. A defect in the group is logged.
    """
    told = [_known(leaf) for leaf in _leaves(error)]
    request = current_request()
    reference = request.request_id if request else "none"
    if None in told:
        _log.error("unexpected error, reference %s", reference, exc_info=error)
    for failure in told:
        if failure is not None:
            return failure
    return ToolFailure(
        f"Something broke inside this server. Quote the reference {reference} to its operator.",
        remediation="Try again; if it breaks again, tell the operator the reference.",
        data={"reference": reference},
    )


def _leaves(error: Exception) -> Iterator[Exception]:
    if isinstance(error, ExceptionGroup):
        for member in error.exceptions:  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
            yield from _leaves(member)  # pyright: ignore[reportUnknownArgumentType]
    else:
        yield error


def _known(error: Exception) -> ToolFailure | None:  # noqa: PLR0911 - a table
    match error:
        case ToolFailure():
            return error
        case Overloaded():
            seconds = round(error.retry_after, 3)
            return ServerOverloaded(
                f"This server has all the work it can take. Call again in {seconds:g} s.",
                remediation="Wait that long, then make the same call again, or ask for less.",
                data={"retry_after_seconds": seconds},
            )
        case trio.TooSlowError():
            return TimedOut(
                "The tool or operation exceeded its own timeout: request less, or try again later.",
            )
        case ClusterError() | WorkerCrashed():
            return _of_worker(error)
        case OSError() if is_shortage(error):
            return local_shortage(error.strerror or str(error))
        case NestedBatch():
            return InvalidArgument(
                "This operation starts a batch within the limiter that its own items hold, and "
                "could wait for itself for ever: give the inner batch another limiter.",
                error_code="NESTED_BATCH",
            )
        case _:
            return None


def _of_worker(error: ClusterError | WorkerCrashed) -> ToolFailure:
    if isinstance(error, ClusterError):
        return _of_cluster(str(error), error)
    return UpstreamFailed(
        "The worker process died during this computation, so its input may be too large or "
        "malformed: try a smaller one.",
        error_code="WORKER_CRASHED",
    )


def cluster_failure(operation: str, error: Exception) -> ToolFailure:
    """Return why the cluster cannot run an operation."""
    if isinstance(error, ClusterError):
        return _of_cluster(f"Operation {operation!r} cannot run on the cluster: {error}", error)
    if isinstance(error, (ImportError, AttributeError)):  # its node lacks what the function needs
        return UpstreamFailed(
            f"A node of the cluster cannot load operation {operation!r} ({error}): install on the "
            "nodes what is installed here, in the same versions.",
            error_code="CLUSTER_UNAVAILABLE",
        )
    return to_failure(error)


def _of_cluster(message: str, error: ClusterError) -> ToolFailure:
    if isinstance(error, TypeError):
        return ToolFailure(message, error_code="NOT_PICKLABLE")
    if isinstance(error, ValueError):
        return InvalidArgument(message, error_code="TOO_LARGE")
    return UpstreamFailed(message, error_code="CLUSTER_UNAVAILABLE")


def outcome_failure(outcome: Outcome[Any, Any], *, running: bool = False) -> ToolFailure:
    """Return why an item has no result, with the same message as for a whole call.

    Args:
        outcome: The outcome of an item that did not succeed.
        running: Whether its batch still runs, so that the item may still end.
    """
    match outcome.status:
        case Status.CANCELLED | Status.NOT_STARTED if running:
            return _Unfinished("not done yet, its operation is running", error_code="NOT_DONE_YET")
        case Status.TIMED_OUT:
            return TimedOut(f"{outcome.error}", error_code="ITEM_TIMEOUT")
        case Status.CANCELLED:
            return _Unfinished("started, but cancelled before it ended", error_code="CANCELLED")
        case Status.NOT_STARTED:
            return _Unfinished("not started before the work was ended", error_code="NOT_STARTED")
        case _:
            assert outcome.error is not None
            return to_failure(outcome.error)


class _Unfinished(ToolFailure):
    error_type = ErrorType.TIMEOUT
