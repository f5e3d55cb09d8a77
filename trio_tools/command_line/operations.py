"""`trio-tools operations`: stored operations, of all clients of this state, without a server."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, cast

import trio

from trio_tools.settings import Settings

if TYPE_CHECKING:
    from trio_tools.operations.durable.records import Record
    from trio_tools.operations.durable_store import DurableStore
    from trio_tools.operations.stored_operation import StoredOperation
    from trio_tools.server import ToolServer


PARTLY_FAILED: Final = 3
"""Exit status of a call if only some items succeeded."""


async def operations(options: argparse.Namespace, settings: Settings, _: list[str]) -> int:
    """Run one of the subcommands."""
    return await _COMMANDS[options.action](options, settings)


async def resume(operation_id: str, settings: Settings, *, as_json: bool) -> int:
    """Resume an operation until it is done, and print the result. Ctrl-C keeps its results."""
    from rich.console import Console  # noqa: PLC0415 - serving needs no console

    from trio_tools.command_line.console import progress_bar, show_answer  # noqa: PLC0415
    from trio_tools.server.calls import resume_stored  # noqa: PLC0415

    console = Console(stderr=True)
    async with _server(settings) as (server, store):
        kept = await _find(store, operation_id)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop_on_interrupt, server.drain, console, nursery.cancel_scope)
            with progress_bar(console, kept.batch.name) as bar:
                result = await resume_stored(server.state, kept, bar.update)
            nursery.cancel_scope.cancel(reason="the operation is answered")
    if as_json:
        print(json.dumps(result.structured_content, ensure_ascii=False))  # noqa: T201
    else:
        text = getattr(result.content[0], "text", "") if result.content else ""
        show_answer(Console(), text, result.structured_content)
    return 1 if result.is_error else status_of_items(result.structured_content or {})


def status_of_items(envelope: dict[str, Any]) -> int:
    """Return the exit status of an answered call: 0; 1 if all items failed; 3 if some failed."""
    data = cast("dict[str, Any]", envelope.get("data") or {})
    counts = cast("dict[str, int]", data.get("counts") or {})
    failed = counts.get("failed", 0) + counts.get("timed_out", 0)
    if not failed:
        return 0
    return PARTLY_FAILED if counts.get("succeeded") else 1


async def _list(options: argparse.Namespace, settings: Settings) -> int:
    async with _server(settings) as (_, store):
        records = await store.records()
        rows = [_row(record, store) for record in records]
    if options.json:
        print(json.dumps(rows))  # noqa: T201
        return 0
    from rich.console import Console  # noqa: PLC0415
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=None)
    for name in ("operation_id", "client", "operation", "state", "done", "failed", "age"):
        table.add_column(name)
    for row in rows:
        done = f"{row['done']} of {row['total'] if row['total'] is not None else '?'}"
        age = f"{row['age_seconds']:.0f} s"
        told = (row["operation_id"], row["client"], row["operation"], row["state"])
        table.add_row(*(escape(_printable(name)) for name in told), done, str(row["failed"]), age)
    Console().print(table if rows else "no operation is stored")
    return 0


async def _show(options: argparse.Namespace, settings: Settings) -> int:
    async with _server(settings) as (_, store):
        kept = await _find(store, options.operation_id)
        assert kept.journal is not None
        row = _row(kept.journal.record, store)
    told = {**row, "cannot_go_on": kept.cannot_go_on or None}
    if options.json:
        print(json.dumps(told))  # noqa: T201
    else:
        for name, value in told.items():
            print(f"{name}: {_printable(str(value))}")  # noqa: T201
    return 0


def _printable(text: str) -> str:
    """Return a text that clients chose so that it does nothing to a terminal."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape", "replace").decode()
        for one in text
    )


async def _resume(options: argparse.Namespace, settings: Settings) -> int:
    return await resume(options.operation_id, settings, as_json=options.json)


async def _cancel(options: argparse.Namespace, settings: Settings) -> int:
    async with _server(settings) as (_, store):
        kept = await _find(store, options.operation_id)
        stopped = await store.stop_elsewhere(kept)
    print(f"{options.operation_id} {'is stopped' if stopped else 'was not running'}")  # noqa: T201
    return 0


async def _export(options: argparse.Namespace, settings: Settings) -> int:
    from trio_tools.answers.error_mapping import outcome_failure  # noqa: PLC0415
    from trio_tools.operations.stored_operation import CHUNK_BYTES  # noqa: PLC0415
    from trio_tools.tools.batches.outcomes import groups_of  # noqa: PLC0415

    async with _server(settings) as (_, store):
        kept = await _find(store, options.operation_id)
        for group in groups_of(kept.batch.report().outcomes, most_bytes=CHUNK_BYTES):
            for outcome, result in zip(group, await kept.whole_results(group), strict=True):
                label = kept.work.label_of(outcome.item)
                line: dict[str, Any] = {"index": outcome.index, "item": label}
                if result is not None:
                    line["value"] = json.loads(result)
                else:
                    failure = outcome_failure(outcome)
                    line["status"] = str(outcome.status)
                    line["error_code"] = str(failure.error_code)
                    line["reason"] = failure.user_message
                sys.stdout.write(f"{json.dumps(line, ensure_ascii=False)}\n")
    return 0


async def _prune(options: argparse.Namespace, settings: Settings) -> int:
    async with _server(settings) as (_, store):
        count = await store.prune(0.0 if options.all else None)
    print(f"{count} operations were deleted")  # noqa: T201
    return 0


_Command = Callable[[argparse.Namespace, Settings], Any]
_COMMANDS: dict[str, _Command] = {
    "list": _list,
    "show": _show,
    "resume": _resume,
    "cancel": _cancel,
    "export": _export,
    "prune": _prune,
}


def add_parser(subparsers: Any, shared: argparse.ArgumentParser) -> None:
    """Add the command to the command line."""
    command = subparsers.add_parser("operations", help="stored operations")
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, words in (
        ("list", "list them"),
        ("show", "show one"),
        ("resume", "go on with one until it is done"),
        ("cancel", "stop one that runs in a server, or that one would take up"),
        ("export", "print the outcomes of one as JSON lines"),
        ("prune", "delete those that are older than operation_ttl_seconds"),
    ):
        action = actions.add_parser(name, parents=[shared], help=words, description=words)
        if name == "prune":
            action.add_argument("--all", action="store_true", help="delete all that do not run")
        elif name != "list":
            action.add_argument("operation_id", metavar="ID")
        if name in {"list", "show", "resume"}:
            action.add_argument("--json", action="store_true", help="print it for machines")


@asynccontextmanager
async def _server(settings: Settings) -> AsyncGenerator[tuple[ToolServer, DurableStore]]:
    """Return a server that resumes nothing by itself.

    Raises:
        ValueError: These settings store nothing, or the state cannot be used.
    """
    from trio_tools.operations.durable_store import DurableStore  # noqa: PLC0415
    from trio_tools.server import create_server  # noqa: PLC0415

    state = settings.state.model_copy(update={"resume": False})
    server = create_server(settings.model_copy(update={"state": state}))
    store = server.state.store
    if not isinstance(store, DurableStore):
        raise ValueError("state.url is memory, so nothing is stored: name another one with --state")  # noqa: TRY004
    problem = ""
    async with server.state.serving():
        try:
            yield server, store
        except ValueError as error:  # the nursery of the server would wrap it in a group
            problem = str(error)
        problem = problem or store.trouble
    if problem:
        raise ValueError(problem)


async def _find(store: DurableStore, operation_id: str) -> StoredOperation:
    for record in await store.records():
        if store.name_of(record)[0] == operation_id:
            owner = store.name_of(record)[1]
            await store.recall(operation_id, owner)
            return store.find(operation_id, owner)
    await trio.lowlevel.checkpoint()
    raise ValueError(
        f"no operation {operation_id!r} is stored: see those there are with trio-tools operations "
        "list"
    )


def _row(record: Record, store: DurableStore) -> dict[str, Any]:
    operation_id, owner = store.name_of(record)
    done = record.succeeded + record.failed + record.timed_out
    if store.is_held(record):
        state = "running"
    elif done == record.total:
        state = "complete"
    else:
        state = "parked" if record.background else "not complete"
    return {
        "operation_id": operation_id,
        "client": owner,
        "tool": record.tool,
        "operation": record.name,
        "state": state,
        "total": record.total,
        "done": done,
        "succeeded": record.succeeded,
        "failed": record.failed,
        "timed_out": record.timed_out,
        "runs": record.run,
        "age_seconds": round(time.time() - record.created, 3),
        "size_bytes": record.size,
    }


async def stop_on_interrupt(
    drain: Callable[[], None], console: Any, scope: trio.CancelScope
) -> None:
    """Stop the work at the first Ctrl-C and keep its results; end the command at the second."""
    with trio.open_signal_receiver(signal.SIGINT) as signals:
        await anext(signals)
        console.print("stopping; what is done follows (Ctrl-C again to give up)")
        drain()
        await anext(signals)
        scope.cancel(reason="interrupted twice")
