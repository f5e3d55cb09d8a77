"""Answers of batch calls in the terminal: counts, a table of results, and the missing items.

A table is as wide as the terminal. If a column is shortened, the common beginning of its cells is
removed first, so that their differences stay visible.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, cast

from rich.console import Console
from rich.markup import escape
from rich.table import Table

_MAX_ROWS = 12
_MAX_COLUMNS = 5
_MAX_CELL = 60
# A shortened column keeps at least this many characters; a column without room for them is
# omitted.
_LEAST_CELL = 12
_LEAST_ITEM = 24
_BETWEEN = 3  # characters between two columns

# Status to style, worst last; also the order in which counts are shown.
_STYLES = {
    "succeeded": "green",
    "failed": "red",
    "timed_out": "yellow",
    "cancelled": "magenta",
    "not_started": "dim",
}
_LAST_BREAK = re.compile(r"[^/?&=\s]*\Z")


def show_batch(console: Console, data: dict[str, Any]) -> None:
    """Print the data of a batch call's answer."""
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
    columns = {
        name: [_one_line(row.get(name, "")) for row in rows]
        for name in dict.fromkeys(name for row in rows for name in row)
    }
    items = columns["item"]
    shown = {name: cells for name, cells in columns.items() if name == "item" or cells != items}
    shown = dict(list(shown.items())[:_MAX_COLUMNS])
    widths = _widths({name: _widest(name, cells) for name, cells in shown.items()}, console.width)
    table = Table(show_edge=False, pad_edge=False)
    fitted: list[list[str]] = []
    for name, width in widths.items():
        table.add_column(name, no_wrap=True, overflow="ellipsis", width=width)
        fitted.append(cut_alike(shown[name], width))
    for cells in zip(*fitted, strict=True):
        table.add_row(*map(escape, cells))
    console.print(table)
    _show_left_out(console, len(results))


def _widest(name: str, cells: Sequence[str]) -> int:
    return min(_MAX_CELL, max(len(text) for text in (name, *cells)))


def _widths(wanted: dict[str, int], room: int) -> dict[str, int]:
    """Divide the width of the terminal: narrow columns get their width, others share the rest.

    The last columns are omitted if there is no room for all.
    """
    least = {
        name: min(width, _LEAST_ITEM if name == "item" else _LEAST_CELL)
        for name, width in wanted.items()
    }
    while len(least) > 1 and sum(least.values()) + _BETWEEN * (len(least) - 1) > room:
        least.popitem()
    rest = room - _BETWEEN * (len(least) - 1)
    widths: dict[str, int] = {}
    for done, name in enumerate(sorted(least, key=wanted.__getitem__)):
        widths[name] = max(least[name], min(wanted[name], rest // (len(least) - done)))
        rest -= widths[name]
    return {name: widths[name] for name in least}


def cut_alike(cells: Sequence[str], width: int) -> list[str]:
    """Shorten texts to a width; their common beginning is shortened in the middle first."""
    if max(map(len, cells)) <= width:
        return list(cells)
    low, high = min(cells), max(cells)
    same = next((n for n, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), 0)
    common = _LAST_BREAK.sub("", low[:same])
    rest = [cell[len(common) :] for cell in cells]
    begin = common[: max(0, width - 1 - max(map(len, rest)))]
    if len(common) > len(begin) + 1:
        cells = [f"{begin}…{each}" for each in rest]
    return [cut_middle(cell, width) for cell in cells]


def cut_middle(text: str, width: int) -> str:
    """Shorten a text to a width in the middle, so that host and page of a URL stay."""
    if len(text) <= width:
        return text
    kept = max(0, width - 1)
    return f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"[: max(0, width)]


def _show_missing(console: Console, errors: list[dict[str, Any]]) -> None:
    shown = errors[:_MAX_ROWS]
    room = max(_LEAST_CELL, console.width // 2)
    items = cut_alike([_one_line(error["item"]) for error in shown], room)
    for error, item in zip(shown, items, strict=True):
        console.print(
            f"[red]{error['error_code']}[/red] [cyan]{escape(item)}[/cyan] "
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


def _one_line(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return " ".join(text.split())
