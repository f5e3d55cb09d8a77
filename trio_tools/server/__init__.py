"""The composition root: settings, live state and tools become one MCP server.

What surrounds every call belongs here: its waiting queue, its departure, its result as MCP has it.
What one tool does belongs to `tools`.

    results            an answer or a failure as MCP has it
    policy             what surrounds each call: scope, queue, record, span
    extensions         the Tasks and Apps extensions
    resources          operations as resources
    early_loading      what the first batch call needs is loaded before it
    tool_changes       clients are told when the list of tools changes
    settings_checks    names in the settings that stand for nothing
    calls              one call of a tool, from its arguments to its answer
    stages             the stages of each request, by method
    tool_server        `ToolServer`: what it lists, and what it does with a call
    composition        `create_server`
    start_checks       what the settings name is there
"""

from __future__ import annotations

from trio_tools.server.composition import create_server
from trio_tools.server.tool_server import ToolServer
from trio_tools.tools.application.context import ToolContext
from trio_tools.tools.application.tool import ApplicationTool, tool
from trio_tools.tools.call import Answer

__all__ = ["Answer", "ApplicationTool", "ToolContext", "ToolServer", "create_server", "tool"]
