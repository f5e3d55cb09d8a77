"""The page at `/`: the current activity, live, in a browser.

The page itself contains no data and needs no token. Its data comes from the paths below
`/dashboard/`, under the same rules of Host, Origin and token as MCP. It is one file without a
build step. Foreign text is shown only as text, and the content security policy allows no script
but that of this page.

    GET  / and /dashboard                     the page
    GET  /dashboard/events                    server-sent events: a snapshot a second
    GET  /dashboard/operations/ID.jsonl       all outcomes, one JSON object a line
    GET  /dashboard/operations/ID.csv         the same as CSV
    POST /dashboard/operations/ID/cancel      stops the operation; what is done stays
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final, Protocol
from urllib.parse import unquote

import trio
from starlette.types import Receive, Scope, Send

from trio_tools.answers.error_mapping import outcome_failure
from trio_tools.answers.errors import NotFound
from trio_tools.live.pages import page
from trio_tools.live.snapshot import snapshot
from trio_tools.live.state import ServerState
from trio_tools.operations.result import value_of
from trio_tools.operations.stored_operation import CHUNK_BYTES, StoredOperation
from trio_tools.tools.batches.outcomes import AnyOutcome, groups_of
from trio_tools.transports.http.access.authentication import Denied

PREFIX: Final = "/dashboard/"
PAGE_PATHS: Final = frozenset({"/", "/dashboard"})
INTERVAL_SECONDS: Final = 1.0
"""Seconds between two snapshots of one stream."""

MAX_STREAMS: Final = 32
"""Limit of open event streams. Further ones are refused."""

_SEND_SECONDS = 10.0
_CHUNK_OUTCOMES = 100
_OPERATION = re.compile(r"operations/([^/]+?)(\.jsonl|\.csv|/cancel)")
_COLUMNS = ("index", "item", "status", "value", "error_code", "reason")


class View(Protocol):
    """The data source of a dashboard."""

    @property
    def reads_only(self) -> bool:
        """Whether operations cannot be stopped here."""
        ...

    async def snapshot(self, client_id: str) -> dict[str, Any]:
        """Return the current activity, for one client, as JSON values."""
        ...

    async def find(self, key: str, client_id: str) -> StoredOperation:
        """Return an operation by its key in a snapshot, or raise `NotFound`."""
        ...


class LiveView:
    """Shows the server of this process.

    Args:
        state: The live server.
    """

    def __init__(self, state: ServerState) -> None:
        self._state = state

    @property
    def reads_only(self) -> bool:
        """False: operations that run here can be stopped here."""
        return False

    async def snapshot(self, client_id: str) -> dict[str, Any]:
        """Return the current activity, for one client."""
        await trio.lowlevel.checkpoint()
        return snapshot(self._state, client_id)

    async def find(self, key: str, client_id: str) -> StoredOperation:
        """Return an operation by its id, or raise `NotFound`."""
        await trio.lowlevel.checkpoint()
        return self._state.store.find(key, client_id)


class Dashboard:
    """The page and its data, for one server.

    Args:
        view: The data source.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        self._streams = 0

    async def page(self, send: Send, method: str) -> None:
        """Answer with the page."""
        html, policy = page("dashboard")
        body = html.encode()
        headers = {
            "content-type": "text/html; charset=utf-8",
            "content-security-policy": f"{policy}; frame-ancestors 'none'",
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
            "cache-control": "no-cache",
        }
        await _start(send, HTTPStatus.OK, {**headers, "content-length": str(len(body))})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})

    async def __call__(self, scope: Scope, receive: Receive, send: Send, client: str) -> None:
        """Answer a request below `/dashboard/` of an admitted client.

        Raises:
            Denied: The path, method or operation does not exist, or too many streams are open.
        """
        path = scope["raw_path"].decode("ascii").removeprefix(PREFIX)
        if path == "events":
            _check_method(scope, "GET")
            await self._events(receive, send, client)
            return
        found = _OPERATION.fullmatch(path)
        if found is None:
            raise Denied(HTTPStatus.NOT_FOUND, "There is nothing at this path.")
        operation_id, what = unquote(found[1]), found[2]
        _check_method(scope, "POST" if what == "/cancel" else "GET")
        if what == "/cancel" and self._view.reads_only:
            reason = "This page changes nothing. Use: trio-tools operations cancel ID"
            raise Denied(HTTPStatus.METHOD_NOT_ALLOWED, reason, {"allow": ""})
        kept = await self._find(operation_id, client)
        if what == "/cancel":
            stopped = json.dumps({"stopped": kept.stop()}).encode()
            await _start(send, HTTPStatus.OK, _fields("application/json", len(stopped)))
            await send({"type": "http.response.body", "body": stopped})
        else:
            await self._download(send, kept, what)

    async def _find(self, key: str, client: str) -> StoredOperation:
        try:
            return await self._view.find(key, client)
        except NotFound:
            raise Denied(HTTPStatus.NOT_FOUND, "There is no such operation.") from None

    async def _events(self, receive: Receive, send: Send, client: str) -> None:
        """Send a snapshot each second until the client disconnects or stops reading."""
        if self._streams >= MAX_STREAMS:
            raise Denied(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"{MAX_STREAMS} dashboards are open: close one, or try again later.",
                {"retry-after": "10"},
            )
        self._streams += 1
        try:
            await _start(send, HTTPStatus.OK, _fields("text/event-stream; charset=utf-8"))
            async with _until_departure(receive):
                while True:
                    shown = await self._view.snapshot(client)
                    text = json.dumps(shown, ensure_ascii=False)
                    with trio.fail_after(_SEND_SECONDS):
                        await _send_more(send, f"data: {text}\n\n".encode())
                    await trio.sleep(INTERVAL_SECONDS)
        except* trio.TooSlowError:
            pass  # the client does not read: the response stays incomplete
        finally:
            self._streams -= 1

    async def _download(self, send: Send, kept: StoredOperation, suffix: str) -> None:
        """Send all outcomes, a bounded piece at a time."""
        is_csv = suffix == ".csv"
        kind = "application/x-ndjson" if suffix == ".jsonl" else "text/csv; charset=utf-8"
        name = re.sub(r"[^\w-]", "_", kept.operation_id)[:80]
        disposition = f'attachment; filename="{name}{suffix}"'
        await _start(send, HTTPStatus.OK, {**_fields(kind), "content-disposition": disposition})
        if is_csv:
            await _send_more(send, _csv_lines([_COLUMNS]))
        outcomes = kept.batch.report().outcomes
        for group in groups_of(outcomes, most_bytes=CHUNK_BYTES, most=_CHUNK_OUTCOMES):
            rows = _rows(kept, group, await kept.whole_results(group))
            await _send_more(send, _csv_rows(rows) if is_csv else _json_lines(rows))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@asynccontextmanager
async def _until_departure(receive: Receive) -> AsyncGenerator[None]:
    """Cancel the block when the client disconnects."""

    async def watch(scope: trio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        scope.cancel(reason="the client has left")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, nursery.cancel_scope)
        yield
        nursery.cancel_scope.cancel(reason="the stream has ended")


def _rows(
    kept: StoredOperation, outcomes: Iterable[AnyOutcome], results: Iterable[bytes | None]
) -> Iterator[dict[str, Any]]:
    running = kept.running
    for outcome, result in zip(outcomes, results, strict=True):
        row: dict[str, Any] = {"index": outcome.index, "item": outcome.item}
        if result is not None:
            yield {**row, "status": "succeeded", "value": value_of(result)}
        else:
            failure = outcome_failure(outcome, running=running)
            reason = {"error_code": failure.error_code, "reason": failure.message}
            yield {**row, "status": outcome.status.value, **reason}


def _json_lines(rows: Iterable[dict[str, Any]]) -> bytes:
    lines = [json.dumps(row, ensure_ascii=False, default=str) for row in rows]
    return "".join(f"{line}\n" for line in lines).encode(errors="replace")


def _csv_rows(rows: Iterable[dict[str, Any]]) -> bytes:
    return _csv_lines([_cell(row.get(column)) for column in _COLUMNS] for row in rows)


def _csv_lines(lines: Iterable[Iterable[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(lines)
    return text.getvalue().encode(errors="replace")


def _cell(value: Any) -> str:
    """Return a cell of CSV. Text that a spreadsheet would run as a formula is quoted."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return f"'{text}" if isinstance(value, str) and text[:1] in {"=", "+", "-", "@", "\t"} else text


def _check_method(scope: Scope, method: str) -> None:
    if scope["method"] != method:
        reason = f"Use {method} for this path."
        raise Denied(HTTPStatus.METHOD_NOT_ALLOWED, reason, {"allow": method})


def _fields(content_type: str, length: int | None = None) -> dict[str, str]:
    fields = {
        "content-type": content_type,
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
    }
    return fields if length is None else {**fields, "content-length": str(length)}


async def _start(send: Send, status: HTTPStatus, fields: dict[str, str]) -> None:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": int(status), "headers": raw})


async def _send_more(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})
