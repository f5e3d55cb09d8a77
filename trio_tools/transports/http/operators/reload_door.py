"""`POST /reload`: an operator requests that the settings are read again.

    200  {"taken": ["limits.fetch_urls"], "needs_restart": ["http.port"]}
    409  {"problems": ["limits.fetch_urls.concurrency is 60, above …"]}; nothing has changed
    405  any method but POST

Only the method of the request is used: it can trigger a reload, and cannot set anything.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

from starlette.types import Send

from trio_tools.transports.http.access.authentication import Denied
from trio_tools.transports.reload import Reload, ReloadRefused

RELOAD_PATH: Final = "/reload"


async def answer_reload(
    reload: Reload, hand_on: Callable[[], None], method: str, send: Send
) -> None:
    """Reload, and answer with the result.

    Args:
        reload: Reads the settings again, for this process.
        hand_on: Called after a successful reload, for the other processes of the same address.
        method: Method of the request.
        send: The ASGI send function.

    Raises:
        Denied: The method is not POST.
    """
    if method != "POST":
        raise Denied(HTTPStatus.METHOD_NOT_ALLOWED, "Use POST for this path.", {"allow": "POST"})
    told: dict[str, Any]
    try:
        changes = await reload()
    except ReloadRefused as refused:
        status, told = HTTPStatus.CONFLICT, {"problems": refused.lines}
    else:
        hand_on()
        status, told = HTTPStatus.OK, changes._asdict()
    body = json.dumps(told).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": int(status), "headers": headers})
    await send({"type": "http.response.body", "body": body})
