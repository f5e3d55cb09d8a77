"""The composition root: settings, state and tools become an MCP server, and every call its policy.

Around each call, from outside in: the request context; the table from error to answer; the bounded
queue; the tool itself. Tools that steer the others (status, reading and stopping operations) do not
wait in it.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import trio
from mcp.server.extension import Extension
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver import server as sdk_server
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError
from mcp.types import (
    INVALID_PARAMS,
    CallToolResult,
    GetPromptResult,
    InputRequiredResult,
)
from mcp.types import Tool as ToolListing

from nursery_patterns import RequestContext, current_request, request_context
from trio_tools.answers.envelope import envelope_schema
from trio_tools.answers.error_mapping import to_failure
from trio_tools.answers.errors import NotFound, ToolFailure, brief_repr, use_one_of
from trio_tools.live.calls import RunningCall
from trio_tools.live.figures import figures_of, process_figures
from trio_tools.live.operations import revive
from trio_tools.live.state import ServerState
from trio_tools.live.telemetry.telemetry import Telemetry
from trio_tools.operations.item_runner import refuse_inside_item
from trio_tools.operations.registry import AnyOperation
from trio_tools.operations.stored_operation import StoredOperation
from trio_tools.server.early_loading import EarlyLoading
from trio_tools.server.extensions.apps import OperationPages, with_apps
from trio_tools.server.extensions.task_notifications import TaskNotifications
from trio_tools.server.extensions.tasks import TasksExtension
from trio_tools.server.policy.access_log import AccessLog
from trio_tools.server.policy.call_policy import tracked, turn
from trio_tools.server.policy.callers_client import open_to_requests
from trio_tools.server.policy.scopes import check_scopes
from trio_tools.server.policy.telemetry import RequestSpans, take_over
from trio_tools.server.resources import add_operation_resources
from trio_tools.server.results import Forms, failed, succeeded
from trio_tools.server.settings_checks import check_names_of_limits, unset_secrets
from trio_tools.server.tool_changes import ToolChanges
from trio_tools.settings import Settings
from trio_tools.settings.changes import Changes, changes_between, settings_taken
from trio_tools.tools.application.tool import ApplicationTool, checked_tools
from trio_tools.tools.batches.background import take_up
from trio_tools.tools.batches.calls import resume_call
from trio_tools.tools.batches.pagination import largest_whole_result
from trio_tools.tools.call import Call, ReportProgress, no_progress
from trio_tools.tools.catalog import BUILT_IN_NAMES, tools_of
from trio_tools.tools.declaring.arguments import as_meant
from trio_tools.tools.declaring.declaration import Tool
from trio_tools.version import __version__

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

# How long a list of tools waits for upstreams; what they have later is a change of the list.
_DISCOVERY_SECONDS = 10.0

# Servers may be made in several threads, and the SDK is one for all (`_logging_left_alone`).
_sdk_is_changed = threading.Lock()

# Claude Code takes no more for what a tool may return.
_MOST_CHARS = 500_000
# The first protocol with structured content.
_STRUCTURED_SINCE = "2025-06-18"
_REQUEST_ID_BYTES = 8

_INSTRUCTIONS = """\
Tools for bulk work. Give many items in one call rather than one item in many calls. A call answers
within timeout_seconds with whatever finished, and names what is missing; repeat it with the same
operation_id to do only that. get_concurrency_status tells what goes on and how much fits a call."""


class ToolServer(MCPServer[ServerState]):
    """An MCP server whose tools answer in one envelope and run under one policy.

    Made by `create_server`. Tools added with the SDK's own `tool()` decorator work too, outside
    of the policy.

    Attributes:
        state: What is live: limits, services, operations, calls.
        telemetry: What is told to OpenTelemetry of it.
    """

    def __init__(
        self,
        state: ServerState,
        tools: Sequence[Tool],
        extensions: Sequence[Extension] = (),
        *,
        telemetry: Telemetry,
    ) -> None:
        self.state = state
        self.telemetry = telemetry
        state.revive = partial(revive, state)
        state.largest_whole_result = largest_whole_result
        self._changes = ToolChanges()
        state.first_jobs = [partial(take_up, state), self._changes.tell, self._watch_upstreams]
        if telemetry.is_on:
            state.first_jobs.append(telemetry.send_metrics)
        self._tools_by_name = {tool.name: tool for tool in tools}
        with _logging_left_alone():
            super().__init__(
                name=state.settings.name,
                title="trio-tools",
                description="Bulk work that is bounded, on time, and never loses what is done.",
                instructions=_INSTRUCTIONS,
                version=__version__,
                lifespan=_lifespan,
                extensions=[
                    tasks := TasksExtension(state, self._tools_by_name),
                    *with_apps(extensions),
                ],
                subscriptions=self._changes.bus,
            )
        stages = (
            AccessLog(self._tools_by_name),
            self._changes,
            TaskNotifications(tasks),
            OperationPages(state),
            EarlyLoading(state),
        )
        self.middleware.extend(stages)
        if telemetry.is_on:
            take_over(self.middleware, RequestSpans(telemetry, self._tools_by_name))
        add_operation_resources(self, state)

    def reload(self, settings: Settings) -> Changes:
        """Take what a running server can of other settings: limits, APIs, upstreams, tokens.

        Calls in flight go on. Clients are told if the list of tools changes by it.

        Args:
            settings: All of them, as for a new server.

        Returns:
            Names of settings that hold from now on, and of those that need a restart.

        Raises:
            ValueError: A limit is for no tool, or an API's secret is not set; nothing changes then.
        """
        state = self.state
        found = changes_between(state.settings, settings)
        taken = settings_taken(state.settings, settings)
        check_names_of_limits(taken, state.operations.values(), self._tools_by_name.values())
        if problems := unset_secrets(taken):
            raise ValueError("; ".join(problems))
        are_watched = state.services.has_made_upstreams
        state.take(taken)
        if not are_watched:
            state.jobs.start(self._watch_upstreams)
        state.jobs.start(self._list_again)
        return found

    async def _list_again(self) -> None:
        self._changes.note_if_listed(await self._tools_now())

    async def list_tools(self) -> list[ToolListing]:
        """List the tools, with the limits that hold now in their schemas and descriptions."""
        if self.state.settings.upstreams:
            await self.state.services.upstreams.discover(_DISCOVERY_SECONDS)
        listing = await self._tools_now()
        self._changes.note(listing)
        return listing

    async def _watch_upstreams(self) -> None:
        if self.state.settings.upstreams:
            await self._changes.watch(self.state.services.upstreams, self._tools_now)

    async def _tools_now(self) -> list[ToolListing]:
        """List the tools without waiting for upstreams."""
        ours: list[ToolListing] = []
        if self.state.settings.models_folder is not None:
            self.state.model_names = await self.state.services.models.names()
        for tool in self._tools_by_name.values():
            await trio.lowlevel.checkpoint()  # a first schema takes milliseconds: one per step
            if tool.listed(self.state):
                ours.append(self._listing(tool))
        added = await super().list_tools()
        return ours + [listing for listing in added if listing.name not in self._tools_by_name]

    async def call_tool(
        self,
        name: str,
        arguments: dict[str, Any],
        context: Context[ServerState, Any] | None = None,
    ) -> CallToolResult | InputRequiredResult:
        """Call a tool under the policy. Every failure is an answer; a cancel passes through."""
        if name not in self._tools_by_name:
            try:
                return await super().call_tool(name, arguments, context)
            except ToolError:
                if name in {listing.name for listing in await super().list_tools()}:
                    raise
        forms = _forms_for(self.state.settings, context)
        with request_context(_new_request_id(), client_id=_client_id()) as request:
            try:
                with open_to_requests(context):
                    return await self._run(name, arguments, request, _progress_of(context), forms)
            except Exception as error:  # noqa: BLE001 - the boundary where failures become answers
                return failed(to_failure(error), forms)

    async def get_prompt(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        context: Context[ServerState, Any] | None = None,
    ) -> GetPromptResult | InputRequiredResult:
        """Return a prompt that was added with the SDK's decorator.

        Raises:
            MCPError: There is none of that name. The SDK would log a traceback for it.
        """
        names = [prompt.name for prompt in await self.list_prompts()]
        if name not in names:
            known = ", ".join(names) or "none"
            raise MCPError(
                INVALID_PARAMS, f"no prompt is named {brief_repr(name)}; there are: {known}"
            )
        return await super().get_prompt(name, arguments, context)

    @property
    def control_tools(self) -> frozenset[str]:
        """Names of the tools that steer the others: status, and reading and stopping operations."""
        return frozenset(name for name, tool in self._tools_by_name.items() if tool.control)

    def drain(self) -> None:
        """Let every batch call return now, with what it has: those that run, and later ones too.

        So a call that waits in its queue answers as well, with its `operation_id` and nothing done.
        """
        self.state.drained = True
        for operation in self.state.store.running():
            operation.stop()

    async def _run(
        self,
        name: str,
        arguments: dict[str, Any],
        request: RequestContext,
        report_progress: ReportProgress,
        forms: Forms,
    ) -> CallToolResult:
        tool = self._tools_by_name.get(name)
        if tool is None or not tool.listed(self.state):
            listed = [each.name for each in self._tools_by_name.values() if each.listed(self.state)]
            raise _unknown(name, listed) if tool is None else _not_configured(tool, listed)
        settings = self.state.settings
        arguments = as_meant(arguments, tool.fn, settings.ignored_arguments)
        checked = tool.check(arguments, max_items=settings.max_items)
        check_scopes(self.state, request.client_id, name, checked)
        call = Call(self.state, tool.name, request.client_id, report_progress, timed=tool.timed)
        if tool.control:
            return succeeded(await tool.run(call, checked), forms)
        refuse_inside_item(tool.name)
        asked = checked.get(tool.time_argument)
        seconds = call.limits.seconds_for(asked, tool.time_argument)
        running = RunningCall(request.request_id, request.client_id, tool.name, request.started)
        queue = self.state.admission_of(tool.name)
        share = self.state.clients.share_of(f"calls of {tool.name}", queue.limiter)
        client = settings.client(request.client_id)
        await self.state.usage.take_call(request.client_id, client)
        its_turn = turn(queue, share, request.client_id, seconds, timed=tool.timed, client=client)
        async with tracked(self.state, running):
            try:
                async with its_turn:
                    running.admitted = True
                    with nullcontext() if tool.timed else call.time_limit(None):
                        return succeeded(await tool.run(call, checked), forms)
            except Exception as error:  # noqa: BLE001 - within the block, as `tracked` asks
                return failed(to_failure(error), forms)

    def _listing(self, tool: Tool) -> ToolListing:
        settings = self.state.settings
        limits = None if tool.control else self.state.limits_of(tool.name)
        schema = envelope_schema(lean=settings.answers_envelope == "lean")
        return ToolListing(
            name=tool.name,
            title=tool.title,
            description=tool.description(limits, self.state),
            input_schema=tool.schema(limits, self.state),
            output_schema=None if settings.answers == "text" else schema,
            annotations=tool.annotations,
            _meta={"anthropic/maxResultSizeChars": min(settings.max_output_chars, _MOST_CHARS)},
        )


async def resume_stored(
    server: ToolServer, kept: StoredOperation, report_progress: ReportProgress
) -> CallToolResult:
    """Go on with a stored operation of any client, and return what its call would have answered.

    It has the time of an operation in the background, and the defaults for all else.
    """
    call = Call(server.state, kept.tool, kept.owner, report_progress)
    with request_context(client_id=kept.owner):
        try:
            return succeeded(await resume_call(call, kept))
        except Exception as error:  # noqa: BLE001 - the boundary where failures become answers
            return failed(to_failure(error))


def create_server(
    settings: Settings | None = None,
    *,
    operations: Iterable[AnyOperation] = (),
    tools: Sequence[ApplicationTool | Callable[..., Any]] = (),
    extensions: Sequence[Extension] = (),
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> ToolServer:
    """Make a server. Serve it with `trio_tools.transports`, or hand it to an MCP client in memory.

    Args:
        settings: By default from the environment and the file it names.
        operations: Further operations for `batch_process`: async functions of one item, or
            `Operation` objects.
        tools: Further tools, as `tool` makes them; an async function is one with the defaults.
        extensions: Further extensions of the protocol, beside the one for tasks.
        tracer_provider: OpenTelemetry's, of the application: spans go there, and no others are
            made from the settings. It stays open.
        meter_provider: The same for metrics.

    Raises:
        pydantic.ValidationError: A setting from the environment or the file is wrong.
        TypeError: An argument, or one of the operations or tools, is of another kind.
        ValueError: Two operations or two tools have the same name, an operation that a package
            offers cannot be loaded, a file root is not a folder, or a limit or a tool is named
            that there is not. Or telemetry is on, and its extra is not installed.
    """
    if settings is None:
        settings = Settings()
    if not isinstance(settings, Settings):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            f"settings must be a Settings object, got {settings!r}: write "
            "create_server(Settings(max_items=100))"
        )
    if not isinstance(operations, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            f"operations must be a list of operations, got {operations!r}: write "
            "create_server(operations=[word_count])"
        )
    own = checked_tools(tools, BUILT_IN_NAMES)
    state = ServerState(settings, operations)
    every = (*tools_of(settings.toolset), *own)
    for each in every:
        if isinstance(each, ApplicationTool):
            state.declare_limits(each.name, each.usual_limits)
    check_names_of_limits(settings, state.operations.values(), own)
    served = _chosen(settings.tools, every)
    telemetry = Telemetry(
        settings,
        lambda: [*process_figures(), *figures_of(state)],
        tracer_provider=tracer_provider,
        meter_provider=meter_provider,
    )
    return ToolServer(state, served, extensions, telemetry=telemetry)


def _chosen(names: Sequence[str] | None, tools: Sequence[Tool]) -> Sequence[Tool]:
    """Return the tools that the settings pick by name."""
    known = [tool.name for tool in tools]
    for name in names or ():
        if name not in known:
            raise ValueError(f"tools: no tool is named {name!r}; there are: {', '.join(known)}")
    return tools if names is None else [tool for tool in tools if tool.name in names]


@asynccontextmanager
async def _lifespan(server: MCPServer[ServerState]) -> AsyncGenerator[ServerState]:
    assert isinstance(server, ToolServer)
    async with server.telemetry.opened(), server.state.serving():
        yield server.state


@contextmanager
def _logging_left_alone() -> Generator[None]:
    # The SDK's constructor configures the root logger, and loads a console library for it. Logging
    # belongs to the host, and the command line configures its own. The SDK has no option against
    # it, so the function is out of the way while the constructor runs.
    names = sdk_server.__dict__
    with _sdk_is_changed:
        configure_logging = names["configure_logging"]
        names["configure_logging"] = _leave_logging_alone
        try:
            yield
        finally:
            names["configure_logging"] = configure_logging


def _leave_logging_alone(_level: str = "INFO") -> None:
    """Stand in for the SDK's function of that name."""


def _new_request_id() -> str:
    return secrets.token_hex(_REQUEST_ID_BYTES)


def _forms_for(settings: Settings, context: Context[ServerState, Any] | None) -> Forms:
    """Return which forms to answer in: protocols without structured content have the text alone."""
    old = context is not None and (context.protocol_version or "") < _STRUCTURED_SINCE
    answers = "both" if settings.answers == "structured" and old else settings.answers
    return Forms(answers, settings.answers_envelope)


def _client_id() -> str:
    # The transport names its client in the request context of the connection.
    connection = current_request()
    return connection.client_id if connection else "anonymous"


def _progress_of(context: Context[ServerState, Any] | None) -> ReportProgress:
    if context is None:
        return no_progress
    return context.report_progress


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
