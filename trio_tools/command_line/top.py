"""`trio-tools top`: the current activity of a server, in a terminal.

It reads the event stream of the server's dashboard, so it shows the same data. Keys: up and down
choose an operation, `c` cancels it, `r` lists its failed items, `q` ends.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import quote

import httpx
import trio
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from trio_tools.settings import Settings

_UP, _DOWN = "\x1b[A", "\x1b[B"
_END_OF_INPUT = "\x04"
# One key: a sequence that a terminal sends for an arrow and the like, or one character.
_KEY = re.compile(r"\x1b\[[0-9;]*[@-~]|.", re.DOTALL)
_BAR_WIDTH = 24


@dataclass
class View:
    """The displayed state: the latest snapshot, and the user's selection."""

    data: dict[str, Any] = field(default_factory=dict[str, Any])
    chosen: int = 0
    shows_failed: bool = False
    message: str = "connecting"

    @property
    def operations(self) -> list[dict[str, Any]]:
        """The operations of the snapshot."""
        return self.data.get("operations", [])

    @property
    def operation(self) -> dict[str, Any] | None:
        """The selected operation; None without one."""
        self.chosen = max(0, min(self.chosen, len(self.operations) - 1))
        return self.operations[self.chosen] if self.operations else None

    def render(self) -> RenderableType:
        """Return the content of the terminal."""
        server = self.data.get("server", {})
        head = f"{server.get('name', 'trio-tools')}  {server.get('calls', 0)} calls  {self.message}"
        keys = Text("↑↓ choose   c cancel   r failed items   q quit", style="dim")
        parts: list[RenderableType] = [Text(head, style="bold"), self._operations()]
        if self.shows_failed and self.operation:
            parts.append(self._failed(self.operation))
        return Group(*parts, self._limits(), keys)

    def _operations(self) -> Table:
        table = Table("", "operation", "tool", "progress", "done", "failed", "rate/s", "left")
        for number, each in enumerate(self.operations):
            counts = each["counts"]
            done = counts["succeeded"] + counts["failed"] + counts["timed_out"]
            left = each["seconds_left"]
            table.add_row(
                "▶" if number == self.chosen else "",
                Text(each["operation_id"][:40]),
                Text(each["tool"]),
                ProgressBar(counts["total"] or 1, done, width=_BAR_WIDTH),
                f"{done}/{counts['total']}",
                str(counts["failed"] + counts["timed_out"]),
                f"{each['rate_per_second']:g}" if each["running"] else "",
                f"{left:.0f} s" if left is not None else "",
                style="" if each["running"] else "dim",
            )
        return table

    def _failed(self, operation: dict[str, Any]) -> Table:
        table = Table("index", "item", "code", "reason", title="failed items")
        for each in operation["failed"]:
            row = (str(each["index"]), each["item"], each["error_code"], each["reason"])
            table.add_row(*map(Text, row))
        return table

    def _limits(self) -> Table:
        table = Table("limit", "in use", "waiting", "capacity")
        for each in self.data.get("limits", []):
            if each["in_use"] or each["waiting"]:
                numbers = (each["in_use"], each["waiting"], each["capacity"])
                table.add_row(each["name"], *(f"{number:g}" for number in numbers))
        return table


async def top(options: argparse.Namespace, _: Settings, __: list[str]) -> int:
    """Show a server until `q` or Ctrl-C.

    Returns:
        0, or 1 if the server refuses.
    """
    headers: dict[str, str] = {}
    if options.token_env:
        headers["authorization"] = f"Bearer {os.environ.get(options.token_env, '')}"
    view = View()
    console = Console()
    async with httpx.AsyncClient(
        base_url=options.url.rstrip("/"), headers=headers, timeout=10
    ) as client:
        if not console.is_terminal:
            return await _once(client, view, console)
        with Live(console=console, screen=True, auto_refresh=False) as live, _single_keys():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_follow, client, view, live)
                await _keys(client, view, live)
                nursery.cancel_scope.cancel(reason="the person has left")
    return 0


async def _once(client: httpx.AsyncClient, view: View, console: Console) -> int:
    """Print one snapshot, for output into a pipe."""
    try:
        async with aclosing(_snapshots(client)) as snapshots:
            view.data = await anext(snapshots)
    except (httpx.HTTPError, StopAsyncIteration) as error:
        where = f"{client.base_url}".rstrip("/")
        words = f"trio-tools: {where} does not answer: {error}"
        print(words, file=sys.stderr)  # noqa: T201
        return 1
    view.message = ""
    console.print(view.render())
    return 0


async def _follow(client: httpx.AsyncClient, view: View, live: Live) -> None:
    while True:
        try:
            async with aclosing(_snapshots(client)) as snapshots:
                async for snapshot in snapshots:
                    view.data, view.message = snapshot, "live"
                    live.update(view.render(), refresh=True)
        except httpx.HTTPError as error:
            view.message = f"not connected: {error}"
            live.update(view.render(), refresh=True)
        await trio.sleep(1)


async def _snapshots(client: httpx.AsyncClient) -> AsyncGenerator[dict[str, Any]]:
    async with client.stream("GET", "/dashboard/events") as answer:
        answer.raise_for_status()
        text = ""
        raw = cast("AsyncGenerator[bytes]", answer.aiter_raw())
        async with aclosing(raw) as chunks:
            async for chunk in chunks:
                text += chunk.decode(errors="replace")
                *events, text = text.split("\n\n")
                if events:
                    yield json.loads(events[-1].removeprefix("data: "))


async def _keys(client: httpx.AsyncClient, view: View, live: Live) -> None:
    while True:
        await trio.lowlevel.wait_readable(sys.stdin)
        typed = os.read(sys.stdin.fileno(), 64).decode(errors="replace")
        # Keys that were pressed quickly arrive together.
        for key in _KEY.findall(typed) or [_END_OF_INPUT]:
            if key in {"q", _END_OF_INPUT}:
                return
            view.chosen += {_UP: -1, _DOWN: 1, "k": -1, "j": 1}.get(key, 0)
            view.shows_failed ^= key == "r"
            if key == "c" and (operation := view.operation):
                name = quote(operation["operation_id"], safe="")
                await client.post(f"/dashboard/operations/{name}/cancel")
        live.update(view.render(), refresh=True)


@contextmanager
def _single_keys() -> Generator[None]:
    """Read each key as it is pressed; restore the terminal at the end."""
    import termios  # noqa: PLC0415 - not on Windows
    import tty  # noqa: PLC0415

    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
