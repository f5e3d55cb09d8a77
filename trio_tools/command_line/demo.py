"""`trio-tools demo`: bulk work with every kind of failure, and the results.

The command serves its own web site on loopback: most pages answer quickly, some are slow, one
breaks off, some hang. Every call goes through a real MCP server and client.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import trio
from rich.console import Console

from nursery_patterns import run_batch
from trio_tools.command_line.console import progress_bar, show_answer
from trio_tools.server import create_server
from trio_tools.settings import Settings
from trio_tools.transports.memory import connect_in_process

_DEADLINE_SECONDS = 3.0
_PAGES = 120
_SLOW = range(12, _PAGES, 25)
_HANGING = range(7, _PAGES, 30)
_BREAKING_OFF = 50


class _Client(Protocol):
    async def call_tool(
        self, name: str, arguments: dict[str, Any], *, progress_callback: Any = None
    ) -> Any: ...


async def run_demo(settings: Settings) -> None:
    """Run the demonstration and print it."""
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        files = _write_files(Path(folder))
        door_opened = {
            "allow_private": True,  # the site is on loopback
            "ports": None,
            "max_connections_per_host": 20,
        }
        server = create_server(
            settings.model_copy(
                update={
                    "file_roots": (Path(folder),),
                    "fetch": settings.fetch.model_copy(update=door_opened),
                    # Its operation ends with it, so the next demonstration starts a new one.
                    "state": type(settings.state).model_validate({"url": "memory"}),
                }
            )
        )
        async with _site() as site, connect_in_process(server) as client:
            # Makes the client load its validator.
            await client.call_tool("get_concurrency_status", {})
            await _fetch_under_a_deadline(console, client, site)
            await _hash_files(console, client, files)
            await _ask_for_too_much(console, client)
    console.print("\nYour turn: [bold]trio-tools call fetch_urls --urls https://…[/bold]")


async def _fetch_under_a_deadline(console: Console, client: _Client, site: Site) -> None:
    urls = [f"{site.url}/page/{number}" for number in range(_PAGES)]
    arguments: dict[str, Any] = {
        "urls": urls,
        "max_concurrent": 20,
        "timeout_seconds": _DEADLINE_SECONDS,
        "operation_id": "demo",
    }
    console.rule(f"[bold]{_PAGES} pages, 20 at a time, {_DEADLINE_SECONDS:g} s[/bold]")
    console.print("Five are slow, one breaks off, and four hang for ever.\n")
    started = trio.current_time()
    await _call(console, client, "fetch_urls", arguments)
    console.print(f"[dim]answered after {trio.current_time() - started:.2f} s[/dim]\n")

    console.rule("[bold]the same call again, with its operation_id[/bold]")
    console.print("The site has recovered. Finished pages are not fetched again.\n")
    before, site.broken = site.requests, False
    await _call(console, client, "fetch_urls", arguments)
    console.print(f"[dim]{site.requests - before} requests for what was missing[/dim]\n")


async def _hash_files(console: Console, client: _Client, files: list[str]) -> None:
    console.rule("[bold]files, bounded by the library itself[/bold]")

    async def digest(path: str) -> str:
        result = await client.call_tool("compute_hash", {"path": path})
        envelope = result.structured_content
        if not envelope["success"]:
            raise RuntimeError(envelope["error"])
        return envelope["data"]["hexdigest"]

    report = await run_batch(digest, [*files, "missing.bin", "/etc/passwd"], limit=4)
    for outcome in report.outcomes:
        told = f"{outcome.value[:16]}…" if outcome.value else f"[red]{outcome.error}[/red]"
        console.print(f"  [cyan]{outcome.item}[/cyan]  {told}")
    counts = report.counts
    console.print(f"{counts.succeeded} of {counts.total} hashed, {counts.failed} failed\n")


async def _ask_for_too_much(console: Console, client: _Client) -> None:
    console.rule("[bold]an argument past its cap[/bold]")
    too_many = {"urls": ["https://example.org"], "max_concurrent": 5_000}
    await _call(console, client, "fetch_urls", too_many)


async def _call(console: Console, client: _Client, tool: str, arguments: dict[str, Any]) -> None:
    with progress_bar(console, tool) as bar:
        result = await client.call_tool(tool, arguments, progress_callback=bar.update)
    show_answer(console, result.content[0].text, result.structured_content)


def _write_files(folder: Path) -> list[str]:
    names = [f"part-{number}.bin" for number in range(4)]
    for number, name in enumerate(names):
        block = hashlib.sha256(name.encode()).digest()
        (folder / name).write_bytes(block * (2**15 << number))
    return names


class Site:
    """A web site on loopback. While it is `broken`, some of its pages fail."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.requests = 0
        self.broken = True

    async def serve(self, stream: trio.SocketStream) -> None:
        """Answer the requests of one connection."""
        received = b""
        async for data in stream:
            received += data
            while b"\r\n\r\n" in received:
                head, _, received = received.partition(b"\r\n\r\n")
                self.requests += 1
                if not await self._answer(stream, int(head.split()[1].rsplit(b"/", 1)[1])):
                    return

    async def _answer(self, stream: trio.SocketStream, page: int) -> bool:
        if self.broken and page in _HANGING:
            await trio.sleep_forever()
        if self.broken and page == _BREAKING_OFF:
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbroken o")
            return False
        await trio.sleep(1.2 if page in _SLOW else 0.05)
        body = f"page {page}\n".encode()
        head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n"
        await stream.send_all((head % len(body)).encode() + body)
        return True


@asynccontextmanager
async def _site() -> AsyncGenerator[Site]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    site = Site(listener.socket.getsockname()[1])

    async def handle(stream: trio.SocketStream) -> None:
        try:
            async with stream:
                await site.serve(stream)
        except trio.BrokenResourceError:
            await trio.lowlevel.checkpoint()  # the client disconnected

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio.serve_listeners, handle, [listener]))
        yield site
        nursery.cancel_scope.cancel(reason="the demonstration is over")
