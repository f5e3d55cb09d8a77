"""`create_server`: settings, operations and tools become a server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from mcp.server.extension import Extension

from trio_tools.live.figures import figures_of, process_figures
from trio_tools.live.state import ServerState
from trio_tools.live.telemetry.telemetry import Telemetry
from trio_tools.operations.registry import AnyOperation
from trio_tools.server.settings_checks import check_names_of_limits
from trio_tools.server.tool_server import ToolServer
from trio_tools.settings import Settings
from trio_tools.tools.application.tool import ApplicationTool, checked_tools
from trio_tools.tools.catalog import BUILT_IN_NAMES, tools_of
from trio_tools.tools.declaring.declaration import Tool

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider


def create_server(
    settings: Settings | None = None,
    *,
    operations: Iterable[AnyOperation] = (),
    tools: Sequence[ApplicationTool | Callable[..., Any]] = (),
    extensions: Sequence[Extension] = (),
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> ToolServer:
    """Make a server. Serve it with `trio_tools.transports`, or connect an MCP client in memory.

    Args:
        settings: By default from the environment and its settings file.
        operations: Further operations for `batch_process`: async functions of one item, or
            `Operation` objects.
        tools: Further tools made by `tool`; an async function becomes one with the defaults.
        extensions: Further extensions of the protocol, beside the one for tasks.
        tracer_provider: The application's OpenTelemetry provider, which receives the spans
            instead of one from the settings. It is not closed.
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
