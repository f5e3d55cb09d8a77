"""An MCP server on trio for bulk work: bounded, on time, and without losing finished work.

The subpackages, lowest first. A subpackage imports only from lower ones; a test checks this. The
docstring of each says what belongs there, and lists its modules in the same order.

    L0   version                             of the distribution
    L1   settings                            the operator's settings; the log
    L2   answers                             the envelope, failures, cursors
    L3   http  database  files               services, without imports of an MCP server
         inference  upstream                 models, and other MCP servers
    L4   services                            objects that live as long as the server
    L5   operations                          functions of one item, by name; their store
    L6   live                                limits, queues, calls, read by status and metrics
    L7   tools                               the MCP tools, one file per family
    L8   server                              composition root, and the policy around each call
    L9   transports                          stdio, Streamable HTTP, in memory
    L10  command_line                        arguments, commands, terminal; the only `trio.run`
    L11  __main__                            signal handling during the imports

The names for applications that embed the server are loaded at their first use.
"""

from __future__ import annotations

import importlib
import sys
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from trio_tools.version import __version__ as __version__

if TYPE_CHECKING:
    from trio_tools.answers.envelope import error_response, success_response
    from trio_tools.operations import Operation
    from trio_tools.server import Answer, ToolContext, ToolServer, create_server, tool
    from trio_tools.settings import Settings
    from trio_tools.transports import serve_http, serve_stdio


__all__ = [
    "Answer",
    "Operation",
    "Settings",
    "ToolContext",
    "ToolServer",
    "create_server",
    "error_response",
    "serve_http",
    "serve_stdio",
    "success_response",
    "tool",
]

_HOMES = {
    "Answer": "server",
    "Operation": "operations.operation",
    "Settings": "settings",
    "ToolContext": "server",
    "ToolServer": "server",
    "create_server": "server",
    "error_response": "answers.envelope",
    "serve_http": "transports",
    "serve_stdio": "transports",
    "success_response": "answers.envelope",
    "tool": "server",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


# Former names of modules that applications import. Both names are one module.
_MOVED = {
    "trio_tools.errors": "trio_tools.answers.errors",
    "trio_tools.responses": "trio_tools.answers.envelope",
    "trio_tools.cli": "trio_tools.command_line.main",
    "trio_tools.operations.base": "trio_tools.operations.operation",
    "trio_tools.http.failures": "trio_tools.http.wire.errors",
    "trio_tools.http.fetcher": "trio_tools.http.fetching.fetcher",
    "trio_tools.http.api": "trio_tools.http.apis.client",
    "trio_tools.http.guard": "trio_tools.http.wire.address_policy",
    "trio_tools.http.transport": "trio_tools.http.httpx_transport",
}


class _MovedModules(Loader):
    """Finds a module by its former name. The import system calls it last."""

    @staticmethod
    def find_spec(name: str, *_: object) -> ModuleSpec | None:
        return ModuleSpec(name, _MovedModules()) if name in _MOVED else None

    def create_module(self, spec: ModuleSpec) -> None:
        """Return None: the import system loads the module."""

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = importlib.import_module(_MOVED[module.__name__])


sys.meta_path.append(_MovedModules())
