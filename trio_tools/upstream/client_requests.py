"""Requests of an upstream to its client (sampling, elicitation, roots), passed on or refused.

Such a request does not contain the call that it belongs to, and all our clients share one
connection. So it is passed on only while all calls in flight at the upstream belong to one call
of ours. In any other case it is refused with an error message that the upstream's tool receives.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import trio

from trio_tools.answers.errors import UpstreamFailed

if TYPE_CHECKING:
    import mcp_types as types

REQUESTS_PER_CALL: Final = 10
"""Limit of requests that an upstream may make for each call."""

_INVALID_REQUEST: Final = -32600

_T = TypeVar("_T")


class CannotAnswer(Exception):  # noqa: N818 - a refusal, which is an answer
    """The request cannot be passed on; the message says why."""


class Answerer(Protocol):
    """The client of one call of ours."""

    async def answer(self, request: types.ServerRequest) -> types.ClientResult:
        """Send a request to the client.

        Raises:
            CannotAnswer: It did not declare the capability, its call has ended, or it refuses.
        """
        ...


answerer: ContextVar[Answerer | None] = ContextVar("answerer", default=None)
"""The client whose call the current task works for, if it accepts requests."""


class _Caller:
    """One call of ours with calls in flight at the upstream."""

    def __init__(self) -> None:
        self.scopes: set[trio.CancelScope] = set()
        self.gone = trio.Event()
        self.calls = self.requests = 0


class ClientRequests:
    """The requests of one upstream to its client.

    Args:
        upstream: Its name, which is shown to the user.
    """

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._callers: dict[Answerer | None, _Caller] = {}

    async def during(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Make a call of the upstream; its requests meanwhile go to the client of this task.

        Raises:
            UpstreamFailed: The upstream made too many requests, and the call was cancelled.
        """
        client = answerer.get()
        caller = self._callers.setdefault(client, _Caller())
        caller.calls += 1
        scope = trio.CancelScope()
        caller.scopes.add(scope)
        try:
            with scope:
                return await call()
        finally:
            caller.scopes.remove(scope)
            if not caller.scopes:
                del self._callers[client]
                caller.gone.set()
        raise UpstreamFailed(
            f"it asked its client more than {REQUESTS_PER_CALL} times for a call, and was stopped: "
            "call it with all it needs",
            error_code="INPUT_REQUIRED",
        )

    async def sample(self, context: object, params: types.CreateMessageRequestParams) -> Any:
        """Answer `sampling/createMessage`."""
        del context  # the SDK's context; it does not contain the call
        from mcp_types import CreateMessageRequest  # noqa: PLC0415 - loaded with the connection

        return await self._answer(CreateMessageRequest(params=params))

    async def elicit(self, context: object, params: types.ElicitRequestParams) -> Any:
        """Answer `elicitation/create`. The message names the server."""
        del context
        from mcp_types import ElicitRequest  # noqa: PLC0415 - loaded with the connection

        message = f"The server {self._upstream!r} asks: {params.message}"
        named = params.model_copy(update={"message": message})
        return await self._answer(ElicitRequest(params=named))

    async def list_roots(self, context: object) -> Any:
        """Answer `roots/list`."""
        del context
        from mcp_types import ListRootsRequest  # noqa: PLC0415 - loaded with the connection

        return await self._answer(ListRootsRequest())

    async def _answer(self, request: types.ServerRequest) -> Any:
        from mcp_types import ErrorData  # noqa: PLC0415 - loaded with the connection

        try:
            return await self._handed_on(request)
        except CannotAnswer as refusal:
            told = f"{request.method} is refused: {refusal}"
            return ErrorData(code=_INVALID_REQUEST, message=told)

    async def _handed_on(self, request: types.ServerRequest) -> types.ClientResult:
        await trio.lowlevel.checkpoint()
        if not self._callers:
            raise CannotAnswer("no call is in flight that could need it")
        if len(self._callers) > 1:
            raise CannotAnswer("calls of several clients are in flight, and it names none of them")
        ((client, caller),) = self._callers.items()
        caller.requests += 1
        if caller.requests > REQUESTS_PER_CALL * caller.calls:
            for scope in caller.scopes:
                scope.cancel(reason="the upstream asks without end")
            raise CannotAnswer(f"at most {REQUESTS_PER_CALL} requests are answered for a call")
        if client is None:
            raise CannotAnswer("the call has no client that could be asked")
        answer: types.ClientResult | None = None
        async with trio.open_nursery() as nursery:

            async def leave_with_the_call() -> None:
                await caller.gone.wait()
                nursery.cancel_scope.cancel(reason="the call that asks has ended")

            nursery.start_soon(leave_with_the_call)
            answer = await _asked(client, request)
            nursery.cancel_scope.cancel(reason="the client has answered")
        if answer is None:
            raise CannotAnswer("the call that needs it has ended")
        if isinstance(answer, CannotAnswer):
            raise answer
        return answer


async def _asked(client: Answerer, request: types.ServerRequest) -> Any:
    """Return the answer, or the refusal: if raised, a nursery would wrap it in a group."""
    try:
        return await client.answer(request)
    except CannotAnswer as refusal:
        return refusal
