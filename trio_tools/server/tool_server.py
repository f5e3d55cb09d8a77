"""`ToolServer`: an MCP server whose tools run under one policy."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

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

from trio_tools.answers.envelope import envelope_schema
from trio_tools.answers.errors import brief_repr
from trio_tools.live.operations import revive
from trio_tools.live.state import ServerState
from trio_tools.live.telemetry.telemetry import Telemetry
from trio_tools.server.calls import answer_call
from trio_tools.server.early_loading import EarlyLoading
from trio_tools.server.extensions.apps import OperationPages, with_apps
from trio_tools.server.extensions.task_notifications import TaskNotifications
from trio_tools.server.extensions.tasks import TasksExtension
from trio_tools.server.policy.access_log import AccessLog
from trio_tools.server.policy.telemetry import RequestSpans, take_over
from trio_tools.server.resources import add_operation_resources
from trio_tools.server.settings_checks import check_names_of_limits, unset_secrets
from trio_tools.server.stages import Stages
from trio_tools.server.tool_changes import ToolChanges
from trio_tools.settings import Settings
from trio_tools.settings.changes import Changes, changes_between, settings_taken
from trio_tools.tools.batches.background import take_up
from trio_tools.tools.batches.pagination import largest_whole_result
from trio_tools.tools.declaring.declaration import Tool
from trio_tools.version import __version__

# Seconds that a list of tools waits for upstreams. Later tools are a change of the list.
_DISCOVERY_SECONDS = 10.0

# Servers may be made in several threads, and the SDK is shared by all (`_logging_left_alone`).
_sdk_is_changed = threading.Lock()

# Claude Code's limit for the declared size of a tool's result.
_MOST_CHARS = 500_000

_INSTRUCTIONS = """\
Tools for bulk work. Give many items in one call rather than one item in many calls. A call answers
within timeout_seconds with whatever finished, and names what is missing; repeat it with the same
operation_id to do only that. get_concurrency_status tells what goes on and how much fits a call."""


class ToolServer(MCPServer[ServerState]):
    """An MCP server whose tools share one form of answer and one policy.

    Made by `create_server`. Tools added with the SDK's own `tool()` decorator work too, outside
    of the policy.

    Attributes:
        state: The live state: limits, services, operations, calls.
        telemetry: Sends traces and metrics with OpenTelemetry.
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
        pages = OperationPages(state)
        self.middleware.append(
            Stages(
                {
                    "initialize": [self._changes],
                    "tools/list": [pages, EarlyLoading(state)],
                    "tools/call": [AccessLog(self._tools_by_name), pages],
                    "resources/list": [pages],
                    "subscriptions/listen": [TaskNotifications(tasks)],
                }
            )
        )
        if telemetry.is_on:
            take_over(self.middleware, RequestSpans(telemetry, self._tools_by_name))
        add_operation_resources(self, state)

    def reload(self, settings: Settings) -> Changes:
        """Apply changed settings to a running server: limits, APIs, upstreams, tokens.

        Calls in flight continue. Clients are notified if the list of tools changes.

        Args:
            settings: All settings, as for a new server.

        Returns:
            Names of settings that were applied, and of those that need a restart.

        Raises:
            ValueError: A limit has the name of no tool, or an API's secret is not set. Nothing is
            changed then.
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
        """List the tools, with the current limits in their schemas and descriptions."""
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
        """Call a tool under the policy. Failures become answers; a cancel passes through."""
        if name not in self._tools_by_name:
            try:
                return await super().call_tool(name, arguments, context)
            except ToolError:
                if name in {listing.name for listing in await super().list_tools()}:
                    raise
        return await answer_call(self.state, self._tools_by_name, name, arguments, context)

    async def get_prompt(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        context: Context[ServerState, Any] | None = None,
    ) -> GetPromptResult | InputRequiredResult:
        """Return a prompt that was added with the SDK's decorator.

        Raises:
            MCPError: The prompt does not exist. The SDK would log a traceback for it.
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
        """Names of the control tools: status, and reading and stopping operations."""
        return frozenset(name for name, tool in self._tools_by_name.items() if tool.control)

    def drain(self) -> None:
        """Make every batch call return its results so far: the running ones, and later ones too.

        A call that waits in its queue also answers, with its `operation_id` and no results.
        """
        self.state.drained = True
        for operation in self.state.store.running():
            operation.stop()

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
