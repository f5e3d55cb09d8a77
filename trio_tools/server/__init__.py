"""The composition root: settings, live state and tools become one MCP server.

What surrounds every call belongs here: its waiting queue, its departure, its result as MCP has it.
What one tool does belongs to `tools`.

    results       an answer or a failure as MCP has it
    access_log    a record for each call
    telemetry     a span for each request
    call_policy   the waiting queue and the departure of a call
    callers_client  the client of a call, as upstreams may ask it
    tasks         the Tasks extension
    apps          the Apps extension: a page for hosts that show one
    task_notifications  clients are told how their tasks go
    resources     operations as resources
    early_loading  what the first batch call needs is loaded before it
    tool_changes  clients are told when the list of tools changes
    application_tools  functions of an application as tools
    scopes        what an access token allows
    settings_checks  names in the settings that stand for nothing
    tool_server   `ToolServer` and `create_server`
    start_checks  what the settings name is there
"""

from __future__ import annotations

from trio_tools.server.application_tools import ApplicationTool, ToolContext, tool
from trio_tools.server.tool_server import ToolServer, create_server

__all__ = ["ApplicationTool", "ToolContext", "ToolServer", "create_server", "tool"]
