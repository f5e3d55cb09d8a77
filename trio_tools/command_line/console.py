"""The output in the terminal: progress while a call runs, then its answer."""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress_bar import ProgressBar as Bar
from rich.table import Column, Table

from trio_tools.command_line.answer_tables import cut_middle, show_batch

# The part of a progress message's first line that the bar shows already.
_COUNT = re.compile(r"(?:[^\s:]+: )?\d+ of \S+ done(?:, )?")
_LEAST_BAR = 10
_WIDEST_BAR = 32
# The elapsed time, and a space before each column but the first.
_TIME_AND_SPACES = len("0:00:00") + 4


class ProgressBar:
    """A bar driven by MCP progress: done, total and a line of text. Hidden without progress."""

    def __init__(self, progress: Progress, title: str) -> None:
        self._progress = progress
        self._title = title
        self._task = progress.add_task(title, total=None, told="", visible=False, width=_LEAST_BAR)

    async def update(self, progress: float, total: float | None, message: str | None) -> None:
        """Move the bar. The signature is that of an MCP client's progress callback."""
        told = _COUNT.sub("", (message or "").partition("\n")[0], count=1)
        whole = "?" if total is None else f"{total:.0f}"
        count = max(len(whole), len(f"{progress:.0f}")) + 1 + len(whole)
        taken = len(self._title) + count + _TIME_AND_SPACES
        room = self._progress.console.width - taken
        width = max(_LEAST_BAR, min(_WIDEST_BAR, room // 2))
        self._progress.update(
            self._task,
            completed=progress,
            total=total,
            told=escape(cut_middle(told, room - width)),
            width=width,
            visible=True,
        )


class _Bar(BarColumn):
    """A bar with the width that its task sets."""

    def render(self, task: Task) -> Bar:
        """Return the bar, drawn for the available width."""
        self.bar_width = task.fields["width"]
        return super().render(task)


@contextmanager
def progress_bar(console: Console, title: str) -> Generator[ProgressBar]:
    """Show a bar during the block: name, bar, count, time, and the latest result.

    It takes one line at any width from 40 columns on. The latest result is shortened first.
    """
    columns = (
        TextColumn("[bold]{task.description}", table_column=Column(no_wrap=True)),
        _Bar(table_column=Column(no_wrap=True)),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TimeElapsedColumn(table_column=Column(no_wrap=True)),
        TextColumn("[dim]{task.fields[told]}", table_column=Column(no_wrap=True)),
    )
    with Progress(*columns, console=console) as progress:
        yield ProgressBar(progress, title)


def show_answer(console: Console, text: str, envelope: dict[str, Any] | None) -> None:
    """Print an answer: a batch as counts, results and missing items, any other one whole."""
    if envelope is None:
        console.print(text, markup=False)
        return
    data = envelope["data"]
    if not envelope["success"]:
        told = escape(envelope["error"])
        console.print(Panel(told, title=data["error_code"], border_style="red", expand=False))
    elif "counts" in data and "results" in data:
        show_batch(console, data)
    else:
        console.print(text.partition("\n")[0], markup=False, style="bold")
        shown = {key: value for key, value in data.items() if key != "summary"}
        console.print_json(json.dumps(shown), default=str)
    for warning in envelope.get("meta", {}).get("warnings", ()):
        console.print(f"[yellow]![/yellow] {escape(warning)}")


def show_tools(console: Console, listings: list[Any]) -> None:
    """Print the tools, their arguments and the lines about their limits."""
    for listing in listings:
        text, _, lines = listing.description.rpartition("\n\n")
        properties = listing.input_schema.get("properties", {})
        required = set(listing.input_schema.get("required", ()))
        arguments = ", ".join(
            f"[bold]{name}[/bold]" if name in required else name for name in properties
        )
        console.print(
            f"[bold cyan]{listing.name}[/bold cyan]  {escape(text.partition(chr(10))[0])}"
        )
        console.print(f"    arguments: {arguments or 'none'}")
        for line in lines.splitlines():
            console.print(f"    [dim]{escape(line)}[/dim]")


def show_tool(console: Console, listing: Any) -> None:
    """Print one tool: its description, its arguments in command-line form, its limits."""
    text, _, lines = listing.description.rpartition("\n\n")
    console.print(f"[bold cyan]{listing.name}[/bold cyan]  {escape(text)}\n")
    required = set(listing.input_schema.get("required", ()))
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("argument", no_wrap=True)
    for title in ("takes", "default", "meaning"):
        table.add_column(title, overflow="fold")
    for name, schema in listing.input_schema.get("properties", {}).items():
        default = "required" if name in required else json.dumps(schema.get("default"))
        option = f"--{name.replace('_', '-')}"
        meaning = f"[dim]{escape(schema.get('description', ''))}[/dim]"
        table.add_row(f"[cyan]{option}[/cyan]", _taken(schema), escape(default), meaning)
    console.print(table)
    for line in lines.splitlines():
        console.print(f"[dim]{escape(line)}[/dim]")


def _taken(schema: dict[str, Any]) -> str:
    """Return a short description of the values that a schema allows."""
    kinds: list[str] = []
    for option in schema.get("anyOf", [schema]):
        kind = " | ".join(map(str, option.get("enum", ()))) or option.get("type", "any JSON")
        kind = "list: repeat it" if kind == "array" else kind
        bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤"}
        told = [f"{sign} {option[name]:g}" for name, sign in bounds.items() if name in option]
        if kind != "null":
            kinds.append(f"{kind} {', '.join(told)}".strip())
    return escape(" or ".join(kinds))


def show_settings(console: Console, rows: list[tuple[str, str, str]]) -> None:
    """Print every setting: name, value now, meaning."""
    table = Table(show_edge=False, pad_edge=False)
    for title in ("setting", "value", "meaning"):
        table.add_column(title, overflow="fold")
    for name, value, meaning in rows:
        table.add_row(
            f"[cyan]{escape(name)}[/cyan]", escape(value), f"[dim]{escape(meaning)}[/dim]"
        )
    console.print(table)
