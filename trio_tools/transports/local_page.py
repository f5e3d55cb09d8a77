"""A page for this machine only, without a server: the dashboard of a stored state."""

from __future__ import annotations

import secrets
from contextlib import ExitStack
from http import HTTPStatus
from typing import Final, NoReturn

import trio
from pydantic import SecretStr
from starlette.types import Receive, Scope, Send

from trio_tools.settings import HttpSettings
from trio_tools.transports.http.access.authentication import Authenticator, Denied
from trio_tools.transports.http.asgi_guard import AsgiGuard
from trio_tools.transports.http.connections import Connections
from trio_tools.transports.http.dashboard import Dashboard, View
from trio_tools.transports.http.listening.listeners import listen

_TOKEN_BYTES: Final = 24
_MAX_CONNECTIONS: Final = 64


async def serve_page(
    view: View, *, port: int = 0, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve the dashboard on 127.0.0.1 until cancelled, with the rules of an HTTP server.

    Args:
        view: The data source.
        port: 0 selects a free one.
        task_status: Reports the URL. Its fragment contains the token of this run; a browser does
            not send the fragment, and the page removes it from the address.

    Raises:
        OSError: The port is in use.
    """
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    http = HttpSettings(host="127.0.0.1", port=port, tokens={"dashboard": SecretStr(token)})
    guard = AsgiGuard(
        _nothing_else,
        Authenticator.from_settings(http),
        max_body_bytes=1,
        overloaded=lambda: False,
        metrics=_no_metrics,
        dashboard=Dashboard(view),
    )
    connections = Connections(
        guard,
        max_connections=_MAX_CONNECTIONS,
        max_connections_per_peer=_MAX_CONNECTIONS,
        max_header_bytes=http.max_header_bytes,
        tokens=True,
    )
    with ExitStack() as context:
        listeners = await listen(http, (), context)
        bound: int = listeners[0].socket.getsockname()[1]
        task_status.started(f"http://127.0.0.1:{bound}/#token={token}")
        await connections.serve(listeners)


async def _nothing_else(scope: Scope, receive: Receive, send: Send) -> NoReturn:
    del scope, receive, send
    await trio.lowlevel.checkpoint()
    raise Denied(HTTPStatus.NOT_FOUND, "There is nothing at this path.")


async def _no_metrics(scope: Scope) -> NoReturn:
    del scope
    await trio.lowlevel.checkpoint()
    raise Denied(HTTPStatus.NOT_FOUND, "This page has no metrics.")
