"""How clients reach the server: standard input and output, Streamable HTTP, or in memory.

Everything that accepts, frames, authenticates or ends a connection belongs here.

    shutdown      one way to stop, whatever asks for it
    reload        settings, read again while calls run
    json_weight   what a message weighs, before it is parsed
    memory_trim   memory of large requests, given back
    requests      every request that is being handled, in either era of the protocol
    sdk           what is used of the SDK beyond its public names
    stdio         one client on standard input and output
    http          many clients over Streamable HTTP
    local_page    the page of a stored state, for this machine alone
    memory        connect_in_process: a client without a connection
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trio_tools.transports.http import serve_http as serve_http
    from trio_tools.transports.stdio import serve_stdio as serve_stdio

__all__ = ["serve_http", "serve_stdio"]

_HOMES = {"serve_http": "http", "serve_stdio": "stdio"}


def __getattr__(name: str) -> Any:
    # Serving stdio must not wait for the import of an HTTP server, nor the parent of workers for
    # either.
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
