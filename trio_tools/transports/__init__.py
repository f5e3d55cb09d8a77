"""The connections of clients: standard input and output, Streamable HTTP, or in memory.

Code that accepts, frames, authenticates or ends a connection belongs here.

    shutdown      the shutdown sequence, for every reason to stop
    reload        settings, read again while calls run
    json_weight   the memory of a parsed message, estimated before parsing
    memory_trim   memory of large requests, given back
    requests      every request in flight, in either era of the protocol
    sdk           private parts of the SDK that are used
    stdio         one client on standard input and output
    http          many clients over Streamable HTTP
    local_page    the page of a stored state, for this machine only
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
    # Serving stdio must not wait for the import of an HTTP server. The parent of workers needs
    # neither.
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
