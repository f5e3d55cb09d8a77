"""The client of a call, for requests of upstreams: sampling, elicitation, roots."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

from mcp import types
from mcp.server.mcpserver import Context
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ServerMessageMetadata

from trio_tools.upstream.client_requests import Answerer, CannotAnswer, answerer

_NEEDS: Final = {
    "sampling/createMessage": "sampling",
    "elicitation/create": "elicitation",
    "roots/list": "roots",
}


class CallersClient(Answerer):
    """The client of one call of ours, which accepts requests until the call has ended.

    Args:
        context: The SDK's context of the call.
    """

    def __init__(self, context: Context[Any, Any]) -> None:
        self._context = context
        self.ended = False

    async def answer(self, request: types.ServerRequest) -> types.ClientResult:
        """Send a request to the client and return its answer. A cancel is sent to the client too.

        Raises:
            CannotAnswer: It did not declare the capability, its call has ended, or it refuses.
        """
        session, needed = self._context.session, _NEEDS[request.method]
        if self.ended:
            raise CannotAnswer("the call that needs it has ended")
        declared = getattr(session.client_capabilities, needed, None)
        if declared is None or (_is_for_a_page(request) and declared.url is None):
            raise CannotAnswer(f"the client of this call does not declare that it can: {needed}")
        if not session.can_send_request:
            raise CannotAnswer("the client of this call takes no requests of its server")
        asked_by = ServerMessageMetadata(related_request_id=self._context.request_id)
        try:
            return await session.send_request(request, _result_of(request), metadata=asked_by)
        except MCPError as error:
            raise CannotAnswer(f"the client answers: {error.message}") from None
        except ValueError:  # the base class of pydantic's error
            raise CannotAnswer("the client's answer is not a valid result") from None


def _is_for_a_page(request: types.ServerRequest) -> bool:
    return isinstance(request, types.ElicitRequest) and request.params.mode == "url"


def _result_of(request: types.ServerRequest) -> type[Any]:
    results: dict[str, type[Any]] = {
        "elicitation/create": types.ElicitResult,
        "roots/list": types.ListRootsResult,
    }
    if isinstance(request, types.CreateMessageRequest):
        with_tools = request.params.tools is not None
        return types.CreateMessageResultWithTools if with_tools else types.CreateMessageResult
    return results[request.method]


@contextmanager
def open_to_requests(context: Context[Any, Any] | None) -> Generator[None]:
    """Let upstreams send requests to the client of a call during the block."""
    if context is None:
        yield
        return
    client = CallersClient(context)
    token = answerer.set(client)
    try:
        yield
    finally:
        client.ended = True
        answerer.reset(token)
