"""The Apps extension: hosts that show pages show the progress of an operation beside the answer.

The page is a resource, `ui://trio-tools/operation.html`, without data. Its data comes with the
results of calls, in `_meta`, which hosts pass to the page and not to the model. Clients that do
not declare the extension see nothing of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, cast

import trio
from mcp.server.apps import EXTENSION_ID, Apps, ResourceCsp, client_supports_apps
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension

from nursery_patterns import current_request
from trio_tools.answers.errors import NotFound
from trio_tools.live.pages import page
from trio_tools.live.snapshot import operation_view
from trio_tools.live.state import ServerState
from trio_tools.server.extensions.tasks import BATCH_TOOLS

PAGE_URI: Final = "ui://trio-tools/operation.html"
VIEW_KEY: Final = "trio-tools/operation"
"""Key of `_meta` of a result: the operation in the form of the dashboard."""

_VIEWED: Final = BATCH_TOOLS | {"get_operation", "cancel_operation"}
_NO_NETWORK: Final = ResourceCsp(connect_domains=[], resource_domains=[])


def with_apps(extensions: Sequence[Extension]) -> list[Extension]:
    """Return the extensions of a server, including one for apps that has the page.

    The protocol allows only one, so the page is added to the application's own if there is one.
    """
    own = [each for each in extensions if each.identifier == EXTENSION_ID]
    apps = own[0] if own else Apps()
    if isinstance(apps, Apps) and PAGE_URI not in {each.resource.uri for each in apps.resources()}:
        apps.add_html_resource(
            PAGE_URI,
            page("operation").html,
            name="operation view",
            description="Shows how an operation goes, in hosts that show MCP Apps.",
            csp=_NO_NETWORK,
            prefers_border=True,
        )
    return [*extensions] if own else [*extensions, apps]


class OperationPages:
    """A stage of a server's middleware: it offers the page only to clients that declare it.

    Args:
        state: The live server.
    """

    def __init__(self, state: ServerState) -> None:
        self._state = state

    async def __call__(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Add the data for the page to a list of tools or to a result."""
        result = await call_next(ctx)
        if not isinstance(result, dict):
            return result
        if ctx.method == "resources/list" and not client_supports_apps(ctx):
            listed = cast("list[dict[str, Any]]", result.get("resources", []))
            result["resources"] = [each for each in listed if each.get("uri") != PAGE_URI]
        elif ctx.method == "tools/list" and client_supports_apps(ctx):
            for tool in cast("list[dict[str, Any]]", result.get("tools", [])):
                if tool["name"] in BATCH_TOOLS:
                    tool["_meta"] = {**tool.get("_meta", {}), "ui": {"resourceUri": PAGE_URI}}
        elif ctx.method == "tools/call" and client_supports_apps(ctx):
            self._add_view((ctx.params or {}).get("name"), result)
        return result

    def _add_view(self, tool: object, result: dict[str, Any]) -> None:
        envelope: dict[str, Any] = result.get("structuredContent") or {}
        data: dict[str, Any] = envelope.get("data") or {}
        operation_id: object = data.get("operation_id")
        if tool not in _VIEWED or not isinstance(operation_id, str):
            return
        request = current_request()
        try:
            kept = self._state.store.find(
                operation_id, request.client_id if request else "anonymous"
            )
        except NotFound:  # it was evicted meanwhile; the page has the counts
            return
        view = operation_view(kept, trio.current_time())
        result["_meta"] = {**result.get("_meta", {}), VIEW_KEY: view}
