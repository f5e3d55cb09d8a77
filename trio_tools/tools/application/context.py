"""`ToolContext`: the call of an application's tool, and its interface to the server."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import trio

from trio_tools.answers.errors import InvalidArgument, TimedOut
from trio_tools.operations.operation import Operation
from trio_tools.services import Services
from trio_tools.tools.batches.calls import BatchRequest, run_batch_call
from trio_tools.tools.call import Answer, Call

_KEY_BYTES = 8
# Seconds before the server's deadline of the call at which a batch ends, so that it can answer.
_SHARE_OF_A_CUT_CALL = 0.95


@dataclass(frozen=True, slots=True)
class ToolContext:
    """The call that an application's tool serves, its progress, and the server around it.

    A parameter with this annotation gets one. It is not an argument of the tool. From a thread,
    call the async methods with `trio.from_thread.run(context.run, "hash", text)`.

    Attributes:
        client_id: The caller.
        request_id: The id of this call, as in its envelope and in the log.
        timeout_seconds: Timeout of this call, counted from its arrival: the caller's, or the
            default of the tool.
    """

    client_id: str
    request_id: str
    timeout_seconds: float
    _call: Call
    _tell: Callable[[float, float | None, str], object]
    _keeps_time: bool = False

    def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        """Report progress to the caller. It never waits, and works in tasks and in threads.

        At most 20 messages a second are sent, each with the latest values, and only if `done` has
        grown.
        """
        self._tell(done, total, message)

    @property
    def elapsed(self) -> float:
        """Seconds since the call arrived, including its time in the queue."""
        return self._call.waited

    @property
    def remaining(self) -> float:
        """Remaining seconds of `timeout_seconds`, at least 0."""
        return max(0.0, self.timeout_seconds - self.elapsed)

    @property
    def max_timeout_seconds(self) -> float:
        """The largest timeout in seconds that a caller of this tool may request."""
        return self._call.limits.declared.max_timeout_seconds

    @property
    def max_output_chars(self) -> int:
        """Limit of characters of an answer, as JSON."""
        return self._call.state.settings.max_output_chars

    @property
    def services(self) -> Services:
        """The server's own databases, files, APIs, models and HTTP client.

        Their limits are not held by a direct call: use `limiter`, or an operation with `run`.
        """
        return self._call.state.services

    def limiter(self, name: str) -> trio.CapacityLimiter:
        """Return the limiter of a tool or operation, such as `"fetch_urls"`, for this client."""
        return self._call.state.limits_of(name).limiter

    async def run(self, operation: str, item: Any) -> Any:
        """Run an operation on one item, and return its value.

        It waits for a token of the operation's limiter, and holds it meanwhile. A cancel ends the
        operation as it does in a batch. Nothing is stored.

        Args:
            operation: A name that `batch_process` accepts, also of an upstream's tool.
            item: In the form that callers of `batch_process` use.

        Raises:
            NotFound: The operation does not exist; the message lists the names.
            InvalidArgument: The item does not fit it.
            TimedOut: It exceeded the operation's timeout for an item.
            Exception: The operation failed. If the tool does not handle it, the caller gets the
                error that the outcome of an item would have.
        """
        state = self._call.state
        found = await state.operations.look_up(operation)
        await state.prepare(found)
        checked = _checked(found, item)
        if found.bucket is not None:
            await found.bucket.acquire()
        place = nullcontext() if found.takes_own_place else self.limiter(found.limit_name)
        async with place:
            with trio.move_on_after(found.item_timeout_seconds or float("inf")) as scope:
                return await found.run(checked, idempotency_key=secrets.token_hex(_KEY_BYTES))
        assert scope.cancelled_caught
        raise TimedOut(
            f"operation {operation!r} was not done within {found.item_timeout_seconds:g} s",
            data={"timeout_seconds": found.item_timeout_seconds},
        )

    async def run_batch(
        self,
        operation: str,
        items: Iterable[Any],
        *,
        max_concurrent: int | None = None,
        timeout_seconds: float | None = None,
        item_timeout_seconds: float | None = None,
        operation_id: str | None = None,
    ) -> Answer:
        """Run an operation over many items, as `batch_process` does, and return its data.

        The operation is stored: `get_operation` reads its outcomes also after a cancel or a
        restart, `cancel_operation` makes this method return the results so far, and a call with
        the same `operation_id` runs only what is missing. Its progress is reported to the caller.

        Args:
            operation: Name of the operation.
            items: In the form that callers of `batch_process` use, at most `max_items` of the
                settings.
            max_concurrent: Limit of items in flight; by default that of the operation.
            timeout_seconds: It returns within that time since the call arrived. By default the
                timeout of this call; 5 % less if the server would cancel the call then.
            item_timeout_seconds: Timeout of one item.
            operation_id: An id chosen by the caller; by default a new one.

        Raises:
            NotFound: The operation does not exist; the message lists the names.
            InvalidArgument: An argument is out of its bounds, an item does not fit the operation,
                or the id is taken.
        """
        if timeout_seconds is None:
            share = 1 if self._keeps_time else _SHARE_OF_A_CUT_CALL
            timeout_seconds = share * self.timeout_seconds
        request = BatchRequest(
            operation=await self._call.state.operations.look_up(operation),
            items=list(items),
            max_concurrent=max_concurrent,
            timeout_seconds=timeout_seconds,
            item_timeout_seconds=item_timeout_seconds,
            operation_id=operation_id,
        )
        return await run_batch_call(self._call, request)


def _checked(operation: Operation, item: Any) -> Any:
    try:
        return operation.check_item(item)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(
            f"the item does not fit operation {operation.name!r}: {error}",
            error_code="INVALID_ITEM",
            data={"item_schema": operation.item_schema()},
        ) from None
