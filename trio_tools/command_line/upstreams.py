"""`trio-tools upstreams`: start every upstream, and list its tools, allowed or not, and why."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trio

from trio_tools.answers.errors import UpstreamFailed
from trio_tools.settings import Settings
from trio_tools.settings.host_files import read_host_file


def add_host_files(options: argparse.Namespace, given: dict[str, Any]) -> None:
    """Add the servers in the files of `--upstreams` to the given settings.

    The reason why an entry is skipped is kept in `options.left_out`, by name.

    Raises:
        OSError: The file does not exist.
        ValueError: It is not the file of a host.
    """
    left_out: dict[str, str] = {}
    for path in options.upstreams or ():
        found = read_host_file(Path(path))
        given.setdefault("upstreams", {}).update(found.upstreams)
        left_out |= found.left_out
    options.left_out = left_out


async def upstreams(options: argparse.Namespace, settings: Settings, _: list[str]) -> int:
    """Start every upstream and print its tools.

    Returns:
        0 if all of them could be started, else 1.
    """
    found = await examine(settings)
    left_out: dict[str, str] = options.left_out
    if options.json:
        print(json.dumps({"upstreams": found, "left_out": left_out}))  # noqa: T201
    else:
        _show(found, left_out)
    return 1 if any(each["error"] for each in found.values()) else 0


async def examine(settings: Settings) -> dict[str, dict[str, Any]]:
    """Start all upstreams concurrently, each with its start timeout, and report their tools."""
    from trio_tools.upstream.upstreams import Upstreams  # noqa: PLC0415 - only if there are some

    known = Upstreams(settings.upstreams, own_name=settings.name)
    found: dict[str, dict[str, Any]] = {}

    async def look(name: str) -> None:
        upstream, started, error = known[name], trio.current_time(), None
        try:
            await upstream.tools()
        except UpstreamFailed as failure:
            error = failure.message
        catalog = upstream.catalog
        found[name] = {
            "error": error,
            "seconds": round(trio.current_time() - started, 3),
            "tools": [
                {
                    "name": tool.name,
                    "operation": f"{name}.{tool.name}" if tool.allowed else None,
                    "allowed": tool.allowed,
                    "why": tool.why,
                    "read_only": tool.read_only,
                }
                for tool in (() if catalog is None else catalog.values())
            ],
            "left_out": {} if catalog is None else dict(catalog.left_out),
        }

    async with known.running(), trio.open_nursery() as nursery:
        for name in known:
            nursery.start_soon(look, name)
    return {name: found[name] for name in known}


def _show(found: Mapping[str, dict[str, Any]], left_out: Mapping[str, str]) -> None:
    from rich.console import Console  # noqa: PLC0415 - serving needs no console
    from rich.markup import escape  # noqa: PLC0415

    console = Console()
    if not found and not left_out:
        console.print("there are no upstreams: set upstreams.NAME.command or .url, or --upstreams")
    for name, each in found.items():
        allowed = sum(tool["allowed"] for tool in each["tools"])
        told = f"{allowed} of {len(each['tools'])} tools allowed, started in {each['seconds']} s"
        if each["error"]:
            told = f"[bold red]FAIL[/bold red] {escape(each['error'])}"
        console.print(f"[bold cyan]{name}[/bold cyan]  {told}", soft_wrap=True)
        for tool in each["tools"]:
            mark = "[green]yes[/green]" if tool["allowed"] else "[yellow]no [/yellow]"
            why = escape(tool["why"])
            console.print(f"    {mark} {escape(tool['name'])}  [dim]{why}[/dim]", soft_wrap=True)
        for tool, why in each["left_out"].items():
            console.print(f"    out {escape(tool)}  [dim]{escape(why)}[/dim]", soft_wrap=True)
    for name, why in left_out.items():
        console.print(f"[dim]{escape(name)}  left out: {escape(why)}[/dim]", soft_wrap=True)
