"""Operations as resources: their finished outcomes, as pages of JSON Lines, for the owner only.

Each line is an outcome as in `get_operation`. A result larger than a page is shown by its
beginning in the pages of its operation, and in parts as `operation://{operation_id}/{index}`. If
there is more, the last line of a page is `{"next": uri}`.
"""

from __future__ import annotations

from typing import Any

import trio
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ResourceNotFoundError
from mcp.server.mcpserver.resources.templates import ResourceSecurity
from mcp.shared.exceptions import MCPError
from mcp.types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    Completion,
    CompletionArgument,
    CompletionContext,
    PromptReference,
    ResourceTemplateReference,
)

from nursery_patterns import current_request
from trio_tools.answers.errors import InvalidArgument, NotFound, ToolFailure, brief_repr
from trio_tools.answers.json_values import json_bytes, safe_value
from trio_tools.live.state import ServerState
from trio_tools.operations.stored_operation import StoredOperation
from trio_tools.tools.batches.pagination import OPERATION_MIME, Page, Pages, Part, operation_uri

_WHOLE = "operation://{operation_id}"
_ONE = "operation://{operation_id}/{index}"
_PAGE = "{?cursor}"

_PAGE_SIZE = 1_000
_MOST_COMPLETIONS = 100  # of the protocol
# Characters of a page beside its outcomes: the line with the next page, the frame of a part.
_FIXED_CHARS = 250
_CHARS_PER_URI_CHAR = 3
_LEAST_SHARE = 4
_INDEX_DIGITS = 9


def add_operation_resources(server: MCPServer[ServerState], state: ServerState) -> None:
    """Add the resource templates of operations to a server, and the completion of their ids."""
    resources = _OperationResources(state)
    # An id may be any text, also one that looks like a path. It is only a key and opens no file.
    options: dict[str, Any] = {
        "mime_type": OPERATION_MIME,
        "security": ResourceSecurity(exempt_params={"operation_id", "index", "cursor"}),
    }
    whole = "Outcomes of an operation, a JSON object a line. Only its owner finds it."
    one = "One outcome of an operation, a large one in parts."
    further = "A further page, as the last line of the one before names it."
    add = server.resource
    add(_WHOLE, name="operation", description=whole, **options)(resources.whole)
    add(_ONE, name="outcome", description=one, **options)(resources.one)
    add(_WHOLE + _PAGE, name="operation_page", description=further, **options)(
        resources.page_of_whole
    )
    add(_ONE + _PAGE, name="outcome_page", description=further, **options)(resources.page_of_one)
    server.completion()(resources.complete)


class _OperationResources:
    """Reads the operations of the requesting client."""

    def __init__(self, state: ServerState) -> None:
        self._state = state

    async def whole(self, operation_id: str) -> str:
        return await self._read(operation_id, None, None)

    async def page_of_whole(self, operation_id: str, cursor: str = "") -> str:
        return await self._read(operation_id, None, cursor or None)

    async def one(self, operation_id: str, index: str) -> str:
        return await self._read(operation_id, index, None)

    async def page_of_one(self, operation_id: str, index: str, cursor: str = "") -> str:
        return await self._read(operation_id, index, cursor or None)

    async def complete(
        self,
        ref: PromptReference | ResourceTemplateReference,
        argument: CompletionArgument,
        context: CompletionContext | None,
    ) -> Completion | None:
        """Complete the id of an operation, newest first, or the index of an outcome."""
        await trio.lowlevel.checkpoint()
        if not isinstance(ref, ResourceTemplateReference) or not ref.uri.startswith(_WHOLE):
            return None
        if argument.name == "operation_id":
            names = await self._state.store.names(_owner())
        elif argument.name == "index":
            operation_id = ((context and context.arguments) or {}).get("operation_id", "")
            try:
                kept = await self._find(operation_id)
            except ResourceNotFoundError:
                return None
            names = list(map(str, range(kept.batch.progress.value.total or 0)))
        else:
            return None
        fitting = [name for name in names if name.startswith(argument.value)]
        shown = fitting[:_MOST_COMPLETIONS]
        return Completion(values=shown, total=len(fitting), has_more=len(shown) < len(fitting))

    async def _find(self, operation_id: str) -> StoredOperation:
        store = self._state.store
        await trio.lowlevel.checkpoint()
        await store.recall(operation_id, _owner())
        try:
            return store.find(operation_id, _owner())
        except NotFound as error:
            raise ResourceNotFoundError(error.message) from None

    async def _read(self, operation_id: str, index: str | None, cursor: str | None) -> str:
        kept = await self._find(operation_id)
        uri = operation_uri(operation_id, index)
        most = self._state.settings.max_output_chars
        room = max(most - _FIXED_CHARS - _CHARS_PER_URI_CHAR * len(uri), most // _LEAST_SHARE)
        pages = Pages(kept, self._state.cursors, room)
        try:
            if index is None:
                page = await pages.read(cursor, _PAGE_SIZE)
            else:
                page = await pages.outcome(_number(index), cursor)
        except NotFound as error:
            raise ResourceNotFoundError(error.message) from None
        except InvalidArgument as error:
            data = {"error_code": error.error_code}
            raise MCPError(INVALID_PARAMS, error.message, data) from None
        except ToolFailure as error:
            data = {"error_code": error.error_code}
            raise MCPError(INTERNAL_ERROR, error.message, data) from None
        await self._state.store.settled(kept)  # nothing is reported before it is committed
        return _lines(page, uri)


def _number(index: str) -> int:
    if not (index.isascii() and index.isdecimal() and len(index) <= _INDEX_DIGITS):
        raise NotFound(f"index must be a number from 0, got {brief_repr(index)}")
    return int(index)


def _lines(page: Page | Part, uri: str) -> str:
    match page:
        case Page(outcomes):
            lines = list(outcomes)
        case Part(index, offset, text, total):
            lines = [{"index": index, "offset": offset, "json_part": text, "json_chars": total}]
    if page.cursor is not None:
        lines.append({"next": f"{uri}?cursor={page.cursor}"})
    return "".join(f"{json_bytes(safe_value(line)).decode()}\n" for line in lines)


def _owner() -> str:
    request = current_request()
    return request.client_id if request else "anonymous"
