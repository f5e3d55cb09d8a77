"""An MCP server on trio for bulk work: bounded, on time, and never losing what is finished.

The modules, lowest layer first. Each imports only from layers below its own; a test enforces it.
Packages state their inner order in the same way.

    L0   sections  errors  logs  console  version   what is in the settings; failures; terminal
         threads                                left behind when they do not stop
    L1   settings                               what the operator decides
         responses  cursors  explain            the envelope; page marks; from error to answer
    L2   http  database  files  inference       doors to the outside; no mcp import
    L3   services                               what lives as long as the server
    L4   operations                             functions of one item, by name
    L5   store                                  operations that outlive their calls
    L6   state                                  what is live: limits, lines, calls
    L7   tools  policy                          the MCP tools, one file per family; their turns
    L8   server                                 composition root: tools and policy
    L9   transports                             stdio, Streamable HTTP, in memory
    L10  demo                                   bulk work that goes wrong in every way
    L11  commands                               what each command does
    L12  cli                                    arguments to settings; the only `trio.run`
    L13  __main__                               what a signal means while all this is imported

The names for applications that embed the server are here, and loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from trio_tools.version import __version__ as __version__

if TYPE_CHECKING:
    from trio_tools.operations.base import Operation
    from trio_tools.responses import error_response, success_response
    from trio_tools.server import ToolServer, create_server
    from trio_tools.settings import Settings
    from trio_tools.transports import serve_http, serve_stdio


__all__ = [
    "Operation",
    "Settings",
    "ToolServer",
    "create_server",
    "error_response",
    "serve_http",
    "serve_stdio",
    "success_response",
]

_HOMES = {
    "Operation": "operations.base",
    "Settings": "settings",
    "ToolServer": "server",
    "create_server": "server",
    "error_response": "responses",
    "serve_http": "transports",
    "serve_stdio": "transports",
    "success_response": "responses",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
