"""One call of a tool, from its arguments to its answer.

Around the tool, from outside in: the request context; the table from error to answer; the bounded
queue. Tools that steer the others (status, reading and stopping operations) do not wait in it.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from mcp.server.mcpserver import Context
from mcp.types import CallToolResult

from nursery_patterns import RequestContext, current_request, request_context
from trio_tools.answers.error_mapping import to_failure
from trio_tools.answers.errors import NotFound, ToolFailure, brief_repr, use_one_of
from trio_tools.live.calls import RunningCall
from trio_tools.live.state import ServerState
from trio_tools.operations.item_runner import refuse_inside_item
from trio_tools.operations.stored_operation import StoredOperation
from trio_tools.server.policy.call_policy import tracked, turn
from trio_tools.server.policy.callers_client import open_to_requests
from trio_tools.server.policy.scopes import check_scopes
from trio_tools.server.results import Forms, failed, succeeded
from trio_tools.settings import Settings
from trio_tools.tools.batches.calls import resume_call
from trio_tools.tools.call import Call, ReportProgress, no_progress
from trio_tools.tools.declaring.arguments import as_meant
from trio_tools.tools.declaring.declaration import Tool

# The first protocol version with structured content.
_STRUCTURED_SINCE = "2025-06-18"
_REQUEST_ID_BYTES = 8


async def answer_call(
    state: ServerState,
    tools: Mapping[str, Tool],
    name: str,
    arguments: dict[str, Any],
    context: Context[ServerState, Any] | None,
) -> CallToolResult:
    """Call a tool, and return its answer. Every failure is an answer; a cancel passes through.

    Args:
        state: The live server.
        tools: Its tools, by name.
        name: The tool that the client names.
        arguments: As the client sent them.
        context: Of the request; None for a call without a client.
    """
    forms = _forms_for(state.settings, context)
    report_progress = no_progress if context is None else context.report_progress
    upstreams_may_ask = open_to_requests(context) if state.settings.upstreams else nullcontext()
    request_id = secrets.token_hex(_REQUEST_ID_BYTES)
    with request_context(request_id, client_id=_client_id()) as request:
        try:
            with upstreams_may_ask:
                tool = _listed(state, tools, name)
                return await _run(state, tool, arguments, request, report_progress, forms)
        except Exception as error:  # noqa: BLE001 - the boundary where failures become answers
            return failed(to_failure(error), forms)


def _listed(state: ServerState, tools: Mapping[str, Tool], name: str) -> Tool:
    """Return the tool of that name, if this server has what it needs."""
    tool = tools.get(name)
    if tool is not None and tool.listed(state):
        return tool
    listed = [each.name for each in tools.values() if each.listed(state)]
    raise _unknown(name, listed) if tool is None else _not_configured(tool, listed)


async def _run(
    state: ServerState,
    tool: Tool,
    arguments: dict[str, Any],
    request: RequestContext,
    report_progress: ReportProgress,
    forms: Forms,
) -> CallToolResult:
    """Check the arguments, wait for the turn of the call, and run the tool."""
    settings = state.settings
    arguments = as_meant(arguments, tool.fn, settings.ignored_arguments)
    checked = tool.check(arguments, max_items=settings.max_items)
    check_scopes(state, request.client_id, tool.name, checked)
    call = Call(state, tool.name, request.client_id, report_progress, timed=tool.timed)
    if tool.control:
        return succeeded(await tool.run(call, checked), forms)
    refuse_inside_item(tool.name)
    asked = checked.get(tool.time_argument)
    seconds = call.limits.seconds_for(asked, tool.time_argument)
    running = RunningCall(request.request_id, request.client_id, tool.name, request.started)
    queue = state.admission_of(tool.name)
    share = state.clients.share_of(f"calls of {tool.name}", queue.limiter)
    client = settings.client(request.client_id)
    await state.usage.take_call(request.client_id, client)
    its_turn = turn(queue, share, request.client_id, seconds, timed=tool.timed, client=client)
    async with tracked(state, running):
        try:
            async with its_turn:
                running.admitted = True
                with nullcontext() if tool.timed else call.time_limit(None):
                    return succeeded(await tool.run(call, checked), forms)
        except Exception as error:  # noqa: BLE001 - within the block, as `tracked` asks
            return failed(to_failure(error), forms)


async def resume_stored(
    state: ServerState, kept: StoredOperation, report_progress: ReportProgress
) -> CallToolResult:
    """Resume a stored operation of any client, and return the answer of its call.

    It has the timeout of a background operation, and default values for the rest.
    """
    call = Call(state, kept.tool, kept.owner, report_progress)
    with request_context(client_id=kept.owner):
        try:
            return succeeded(await resume_call(call, kept))
        except Exception as error:  # noqa: BLE001 - the boundary where failures become answers
            return failed(to_failure(error))


def _forms_for(settings: Settings, context: Context[ServerState, Any] | None) -> Forms:
    """Return which forms to answer in: protocols without structured content have the text alone."""
    old = context is not None and (context.protocol_version or "") < _STRUCTURED_SINCE
    answers = "both" if settings.answers == "structured" and old else settings.answers
    return Forms(answers, settings.answers_envelope)


def _client_id() -> str:
    # The transport names its client in the request context of the connection.
    connection = current_request()
    return connection.client_id if connection else "anonymous"


def _not_configured(tool: Tool, names: list[str]) -> ToolFailure:
    return tool.refusal(
        f"{tool.name} needs the setting {tool.needs}, which this server does not have: "
        f"{use_one_of(names)}",
        data={"tools": names},
    )


def _unknown(name: str, names: list[str]) -> NotFound:
    return NotFound(
        f"no tool is named {brief_repr(name)}: {use_one_of(names)}",
        error_code="UNKNOWN_TOOL",
        data={"tools": names},
    )
