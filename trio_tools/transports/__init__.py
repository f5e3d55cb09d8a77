"""How clients reach the server: standard input and output, Streamable HTTP, or in memory.

Each module imports only from those above it:

    shutdown      the one way down, whatever asks for it
    calls         every request that is being handled, in whatever era
    sdk           what we take from the SDK without its blessing
    fds           standard input and output, out of everybody else's reach
    wire          bytes to lines to messages                              no I/O
    link          between two byte streams and the SDK
    stdio         serve_stdio: one client on standard input and output
    security      which address, which Host, which Origin, which token
    tls           a certificate, its key, and the password of that
    connections   accepted up to a bound, closable at once
    sessions      of the older era: to each client its share
    gate          who may pass, and how much
    metrics       what /metrics says
    http          serve_http: many clients over Streamable HTTP
    memory        connect_in_process: a client without any wire
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trio_tools.transports.stdio import serve_stdio as serve_stdio

if TYPE_CHECKING:
    from trio_tools.transports.http import serve_http as serve_http

__all__ = ["serve_http", "serve_stdio"]


def __getattr__(name: str) -> Any:
    # Serving stdio must not wait for the import of an HTTP server.
    if name == "serve_http":
        from trio_tools.transports.http import serve_http  # noqa: PLC0415

        return serve_http
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
