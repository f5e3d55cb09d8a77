"""What people see in the terminal: progress while a call runs, then its answer."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

_MAX_ROWS = 12
_MAX_COLUMNS = 5
_MAX_CELL = 44

# Status to style, worst last; also the order in which counts are shown.
_STYLES = {
    "succeeded": "green",
    "failed": "red",
    "timed_out": "yellow",
    "cancelled": "magenta",
    "not_started": "dim",
}


class ProgressBar:
    """A bar fed by MCP progress: done, total and a line of text. Without any it stays unseen."""

    def __init__(self, progress: Progress, title: str) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=None, told="", visible=False)

    async def update(self, progress: float, total: float | None, message: str | None) -> None:
        """Move the bar. Its shape is that of an MCP client's progress callback."""
        told = (message or "").partition(": ")[2] or message or ""
        self._progress.update(
            self._task, completed=progress, total=total, told=escape(told), visible=True
        )


@contextmanager
def progress_bar(console: Console, title: str) -> Generator[ProgressBar]:
    """Show a bar for the length of the block."""
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[told]}"),
    )
    with Progress(*columns, console=console) as progress:
        yield ProgressBar(progress, title)


def show_answer(console: Console, text: str, envelope: dict[str, Any] | None) -> None:
    """Print an answer: batch-like ones as counts, results and what is missing, others whole."""
    if envelope is None:
        console.print(text, markup=False)
        return
    data = envelope["data"]
    if not envelope["success"]:
        told = escape(envelope["error"])
        console.print(Panel(told, title=data["error_code"], border_style="red", expand=False))
    elif "counts" in data and "results" in data:
        _show_batch(console, data)
    else:
        console.print(text.partition("\n")[0], markup=False, style="bold")
        shown = {key: value for key, value in data.items() if key != "summary"}
        console.print_json(json.dumps(shown), default=str)
    for warning in envelope["meta"]["warnings"]:
        console.print(f"[yellow]![/yellow] {escape(warning)}")


def _show_batch(console: Console, data: dict[str, Any]) -> None:
    console.print(f"[bold]{escape(data['summary'])}[/bold]")
    counts = data["counts"]
    told = [
        f"[{style}]{counts[name]} {name.replace('_', ' ')}[/{style}]"
        for name, style in _STYLES.items()
        if counts[name]
    ]
    console.print("  " + ", ".join(told))
    if data["results"]:
        _show_results(console, data["results"])
    if data["errors"]:
        _show_missing(console, data["errors"])


def _show_results(console: Console, results: list[dict[str, Any]]) -> None:
    rows = [
        {"": result["index"], "item": result["item"], **_scalars(result["value"])}
        for result in results[:_MAX_ROWS]
    ]
    names = list(dict.fromkeys(name for row in rows for name in row))[:_MAX_COLUMNS]
    table = Table(show_edge=False, pad_edge=False)
    for name in names:
        table.add_column(name, overflow="ellipsis", no_wrap=True, max_width=_MAX_CELL)
    for row in rows:
        table.add_row(*(_cell(row.get(name, "")) for name in names))
    console.print(table)
    _show_left_out(console, len(results))


def _show_missing(console: Console, errors: list[dict[str, Any]]) -> None:
    for error in errors[:_MAX_ROWS]:
        console.print(
            f"[red]{error['error_code']}[/red] [cyan]{_cell(error['item'])}[/cyan] "
            f"{escape(error['reason'])}"
        )
    _show_left_out(console, len(errors))


def _show_left_out(console: Console, size: int) -> None:
    if size > _MAX_ROWS:
        console.print(f"[dim]… and {size - _MAX_ROWS} more (--json shows them all)[/dim]")


def _scalars(result: Any) -> dict[str, Any]:
    if not isinstance(result, dict):
        return {"value": result}
    items = cast("dict[str, Any]", result).items()
    return {name: value for name, value in items if not isinstance(value, dict | list)}


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    one_line = " ".join(text.split())
    return escape(one_line[: _MAX_CELL - 1] + "…" if len(one_line) > _MAX_CELL else one_line)


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
    """Print one tool: what it does, its arguments as the command line takes them, its limits."""
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
    """Say in a few words what values a schema lets pass."""
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
