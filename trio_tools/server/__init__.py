"""The composition root: settings, live state and tools become one MCP server.

Code around every call belongs here: its queue, its cancellation, its result in MCP's form. Code
of one tool belongs to `tools`.

    results           an answer or a failure in MCP's form
    policy            code around each call: scope, queue, record, span
    extensions        the Tasks and Apps extensions
    resources         operations as resources
    early_loading     loads the modules of the first batch call in advance
    tool_changes      notifies clients when the list of tools changes
    settings_checks   names in the settings that do not exist
    calls             one call of a tool, from its arguments to its answer
    stages            the stages of each request, by method
    tool_server       `ToolServer`: its list of tools, and the handling of a call
    composition       `create_server`
    start_checks      checks that what the settings name exists
"""

from __future__ import annotations

from trio_tools.server.composition import create_server
from trio_tools.server.tool_server import ToolServer
from trio_tools.tools.application.context import ToolContext
from trio_tools.tools.application.tool import ApplicationTool, tool
from trio_tools.tools.call import Answer

__all__ = ["Answer", "ApplicationTool", "ToolContext", "ToolServer", "create_server", "tool"]
