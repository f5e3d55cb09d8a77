"""Checks of external services before the server serves: it starts correctly or not at all.

Each problem is one line with the name of the setting as the operator wrote it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncGenerator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import trio

from trio_tools.answers.errors import ToolFailure
from trio_tools.server.settings_checks import unset_secrets
from trio_tools.server.tool_server import ToolServer
from trio_tools.settings import Settings, written_name

DATABASE_SECONDS: Final = 10.0
"""Seconds that a database may take to answer."""

CLUSTER_SECONDS: Final = 5.0
"""Seconds that the host of a cluster may take to accept a connection."""

_SQLITE_HEADER: Final = b"SQLite format 3\0"


async def start_problems(server: ToolServer) -> list[str]:
    """Return a line for each setting that names something missing; empty without problems."""
    settings = server.state.settings
    problems = [*unset_secrets(settings), *_shut_output(settings)]
    problems += [line async for line in _useless_limits(server)]
    problems += [line async for line in _missing_datasets(server)]
    problems += [line async for line in _shut_databases(server)]
    problems += [line async for line in _missing_cluster(server)]
    return problems


def _shut_output(settings: Settings) -> list[str]:
    folder = settings.output_root
    if folder is None or os.access(folder, os.W_OK | os.X_OK):
        return []
    told = f"{str(folder)!r} cannot be written: let this user write it, or leave the setting out"
    return [f"{written_name('output_root')}: {told}"]


async def _useless_limits(server: ToolServer) -> AsyncGenerator[str]:
    if not server.state.settings.limits.by_tool:
        return
    offered = {tool.name for tool in await server.list_tools()}
    offered |= {operation.limit_name for operation in server.state.operations.values()}
    for name in server.state.settings.limits.by_tool:
        if name not in offered and not name.startswith("upstreams."):
            yield (
                f"{written_name(f'limits.{name}')} is for a tool that this server does not offer: "
                "configure what the tool needs, or leave the limit out"
            )


async def _missing_datasets(server: ToolServer) -> AsyncGenerator[str]:
    files = server.state.services.files
    for name, dataset in server.state.settings.datasets.items():
        if dataset.path is None:
            continue
        setting = written_name(f"datasets.{name}.path")
        try:
            path = files.resolve(dataset.path)
        except ToolFailure as failure:
            yield f"{setting}: {failure.message}"
            continue
        if not await trio.Path(path).exists():
            yield f"{setting}: {dataset.path!r} is not there: create it, or correct the path"


async def _shut_databases(server: ToolServer) -> AsyncGenerator[str]:
    for name, database in server.state.settings.databases.items():
        if database.optional:
            continue
        kind, _, path = database.url.get_secret_value().partition(":///")
        if kind.startswith("sqlite"):
            reason = _why_no_sqlite_file(Path(path.partition("?")[0]))
        elif kind.startswith("duckdb"):
            there = await trio.Path(path.partition("?")[0]).exists()
            reason = None if there else "it is not there: create it, or correct the path"
        else:
            reason = await _why_no_answer(server, name)
        if reason:
            yield (
                f"{written_name(f'databases.{name}.url')}: {reason}; or set "
                f"databases.{name}.optional=true if it may come later"
            )


async def _missing_cluster(server: ToolServer) -> AsyncGenerator[str]:
    on_cluster = any(operation.on_cluster for operation in server.state.operations.values())
    if not (on_cluster or "cluster" in server.state.settings.model_fields_set):
        return
    address = server.state.settings.cluster.address
    reason = await why_no_cluster(address)
    if reason:
        yield f"{written_name('cluster.address')} is {address!r}, but {reason}"


async def why_no_cluster(address: str) -> str | None:
    """Return why a cluster cannot be reached, without joining it."""
    if find_spec("ray") is None:
        return "Ray is not installed: pip install 'trio-tools[cluster]'"
    if address == "auto":
        address = await _address_here()
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon:
        return (
            None
            if address == "local"
            else "no Ray runs on this machine: start one with "
            '`ray start --head`, or set cluster.address to "local"'
        )
    with trio.move_on_after(CLUSTER_SECONDS) as patience:
        try:
            await (await trio.open_tcp_stream(host.strip("[]"), int(port))).aclose()
        except (OSError, OverflowError) as error:
            return f"nothing answers there ({error}): start the cluster, or correct the address"
    late = f"nothing answers there within {CLUSTER_SECONDS:g} s: start the cluster, or correct it"
    return late if patience.cancelled_caught else None


async def _address_here() -> str:
    """Return the address of the Ray on this machine; empty without one."""
    given = os.environ.get("RAY_ADDRESS", "")
    if given not in {"", "auto"}:
        return given
    folder = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir())) / "ray"
    try:
        return (await trio.Path(folder / "ray_current_cluster").read_text()).strip()
    except OSError:
        return ""


def _why_no_sqlite_file(path: Path) -> str | None:
    """Return the problem with a file. Opening it as a database is left to the first query."""
    try:
        with path.open("rb") as file:
            header = file.read(len(_SQLITE_HEADER))
    except OSError as error:
        return f"the file cannot be read ({error.strerror}): create it, or correct the path"
    # An empty file is an empty database.
    if header not in {b"", _SQLITE_HEADER}:
        return "the file is not a SQLite database: correct the path"
    return None


async def _why_no_answer(server: ToolServer, name: str) -> str | None:
    try:
        await server.state.services.databases.query(
            name, "SELECT 1", timeout_seconds=DATABASE_SECONDS
        )
    except ToolFailure as failure:
        return failure.message
    return None
