"""`trio-tools doctor`: check the settings and everything they name, and print how to fix it.

Each check is an async function that yields findings. All of them run concurrently as one batch: a
check that hangs is cancelled at its deadline and reported, and delays no other.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast

import trio

from nursery_patterns import Outcome, run_batch
from trio_tools.answers.error_mapping import outcome_failure
from trio_tools.answers.errors import ToolFailure
from trio_tools.command_line.host_answers import advice_for
from trio_tools.command_line.hosts import HOSTS
from trio_tools.command_line.install import installed_entries
from trio_tools.settings import Settings
from trio_tools.settings.threads import run_in_tool_thread

_CHECK_SECONDS = 10.0
_PACKAGES = ("trio", "mcp", "httpx", "pydantic", "h11", "sqlalchemy")

Level = Literal["ok", "warning", "failure"]
_MARKS = {"ok": ("ok  ", "green"), "warning": ("warn", "yellow"), "failure": ("FAIL", "bold red")}


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        level: A failure ends the command with status 1; a warning does not.
        subject: The checked setting or object.
        message: The fact.
        fix: What to do; empty for nothing.
    """

    level: Level
    subject: str
    message: str
    fix: str = ""


@dataclass(frozen=True)
class Check:
    """A named function that makes one check."""

    subject: str
    look: Callable[[], AsyncIterator[Finding]]


async def doctor(options: argparse.Namespace, settings: Settings, _: list[str]) -> int:
    """Run every check and print the findings, failures last.

    Returns:
        0 if nothing failed, else 1.
    """
    findings = await examine(settings, host=options.for_host)
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings], ensure_ascii=False))  # noqa: T201
    else:
        _show(findings)
    return 1 if any(finding.level == "failure" for finding in findings) else 0


async def examine(settings: Settings, *, host: str | None = None) -> list[Finding]:
    """Return the findings of all checks, in the order of the checks.

    Args:
        settings: The settings to check.
        host: The host that starts the server; by default all hosts with an entry for it.
    """
    todo = list(checks(settings, host=host))
    report = await run_batch(_run, todo, item_timeout=_CHECK_SECONDS)
    return [finding for outcome in report.outcomes for finding in _findings_of(outcome)]


def checks(settings: Settings, *, host: str | None = None) -> Iterable[Check]:
    """Yield the checks for these settings."""
    yield Check("versions", _versions)
    yield Check("server", lambda: _server(settings))
    for root in settings.file_roots:
        yield Check(f"file_roots: {root}", lambda root=root: _folder(root))
    if settings.models_folder is not None:
        yield Check("models_folder", lambda: _models(settings))
    for name in settings.databases:
        yield Check(f"databases.{name}", lambda name=name: _database(settings, name))
    for name, api in settings.apis.items():
        yield Check(f"apis.{name}", lambda name=name, env=api.auth_env: _api(name, env))
    for name in settings.upstreams:
        yield Check(f"upstreams.{name}", lambda name=name: _upstream(settings, name))
    yield Check("state", lambda: _state(settings))
    yield Check("cluster", lambda: _cluster(settings))
    yield Check("http", lambda: _http(settings))
    yield Check("hosts", lambda: _hosts(settings, host))


async def _run(check: Check) -> list[Finding]:
    return [finding async for finding in check.look()]


def _findings_of(outcome: Outcome[Any, Any]) -> list[Finding]:
    if outcome.succeeded:
        return cast("list[Finding]", outcome.value)
    failure = outcome_failure(outcome)
    return [Finding("failure", outcome.item.subject, failure.message, failure.remediation)]


async def _versions() -> AsyncIterator[Finding]:
    await trio.lowlevel.checkpoint()
    from trio_tools.version import __version__  # noqa: PLC0415 - for its text alone

    known = [f"{name} {version(name)}" for name in _PACKAGES if _is_installed(name)]
    words = f"trio-tools {__version__}, Python {platform.python_version()}, {', '.join(known)}"
    yield Finding("ok", "versions", words)
    for name in _PACKAGES:
        if not _is_installed(name):
            yield Finding(
                "failure", "versions", f"{name} is not installed", "pip install trio-tools again"
            )


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


async def _server(settings: Settings) -> AsyncIterator[Finding]:
    await trio.lowlevel.checkpoint()
    from trio_tools.server import create_server  # noqa: PLC0415 - loads the SDK

    try:
        server = create_server(settings)
        names = [listing.name for listing in await server.list_tools()]
    except ValueError as error:
        yield Finding("failure", "server", str(error), "correct the setting that it names")
        return
    yield Finding("ok", "server", f"offers {len(names)} tools: {', '.join(names)}")


async def _folder(root: Path) -> AsyncIterator[Finding]:
    subject = f"file_roots: {root}"
    try:
        count = await run_in_tool_thread(lambda: sum(1 for _ in os.scandir(root)))
    except OSError as error:
        fix = "create the folder, let this user read it, or remove it from file_roots"
        yield Finding("failure", subject, f"cannot be read: {error.strerror}", fix)
        return
    yield Finding("ok", subject, f"can be read, {count} entries")


async def _models(settings: Settings) -> AsyncIterator[Finding]:
    if find_spec("onnxruntime") is None:
        fix = "pip install 'trio-tools[inference]'"
        yield Finding("failure", "models_folder", "onnxruntime is not installed", fix)
        return
    folder = cast("Path", settings.models_folder)
    names = await run_in_tool_thread(lambda: sorted(file.name for file in folder.glob("*.onnx")))
    if names:
        yield Finding("ok", "models_folder", f"{len(names)} models: {', '.join(names[:5])}")
    else:
        fix = f"put ONNX files into {folder}, or remove models_folder"
        yield Finding("warning", "models_folder", "has no model", fix)


async def _database(settings: Settings, name: str) -> AsyncIterator[Finding]:
    from trio_tools.services import Services  # noqa: PLC0415 - loads what its doors need

    services = Services(settings, api_limiter=trio.CapacityLimiter(1))
    subject = f"databases.{name}"
    async with services.opened():
        try:
            await services.databases.query(name, "select 1")
        except ToolFailure as failure:
            fix = failure.remediation or f"correct databases.{name}.url, or start the database"
            yield Finding("failure", subject, failure.message, fix)
            return
    yield Finding("ok", subject, "answers a query")


async def _api(name: str, auth_env: str | None) -> AsyncIterator[Finding]:
    await trio.lowlevel.checkpoint()
    if auth_env and not os.environ.get(auth_env):
        fix = f"export {auth_env}=…, or set apis.{name}.auth_env to the variable that holds it"
        yield Finding("failure", f"apis.{name}", f"the variable {auth_env} is not set", fix)
    else:
        yield Finding("ok", f"apis.{name}", f"its secret is in {auth_env}" if auth_env else "open")


async def _upstream(settings: Settings, name: str) -> AsyncIterator[Finding]:
    from trio_tools.command_line.upstreams import examine as start  # noqa: PLC0415 - heavy

    subject, chosen = f"upstreams.{name}", {name: settings.upstreams[name]}
    found = (await start(settings.model_copy(update={"upstreams": chosen})))[name]
    allowed = sum(tool["allowed"] for tool in found["tools"])
    if found["error"]:
        fix = f"correct {subject}.command or .url, or remove it; trio-tools upstreams starts it"
        yield Finding("failure", subject, found["error"], fix)
    elif not allowed:
        words = f"answers, and none of its {len(found['tools'])} tools may be called"
        yield Finding("warning", subject, words, "see why with trio-tools upstreams")
    else:
        words = f"answers, {allowed} of {len(found['tools'])} tools may be called"
        yield Finding("ok", subject, words)


async def _state(settings: Settings) -> AsyncIterator[Finding]:
    from trio_tools.operations.durable.location import Location  # noqa: PLC0415 - of this check

    await trio.lowlevel.checkpoint()
    location = Location.of_url(settings.state.url.get_secret_value())
    if location is None:
        fix = "nothing has to be done, or set state.url to sqlite"
        words = "memory: finished work is lost with the process"
        yield Finding("warning", "state", words, fix)
        return
    if location.path is not None and not location.path.exists():
        yield _new_state(location.path)
        return
    from trio_tools.operations.durable.database import StateDatabase  # noqa: PLC0415 - heavy
    from trio_tools.operations.durable.location import StateTroubleError  # noqa: PLC0415

    database = StateDatabase(location, "doctor", read_only=True)
    try:
        records = await run_in_tool_thread(database.records)
    except StateTroubleError as error:
        fix = "correct state.url, or what it names; until then work is kept in memory only"
        yield Finding("failure", "state", str(error), fix)
        return
    finally:
        database.close()
    if location.path is not None and not os.access(location.path, os.W_OK):
        fix = f"let this user write {location.path}, or set state.url to another file"
        yield Finding("failure", "state", f"{location.told} cannot be written", fix)
        return
    yield Finding("ok", "state", f"{location.told} can be read, {len(records)} operations")


def _new_state(path: Path) -> Finding:
    """Check whether the file of a state could be created."""
    folder = next(parent for parent in path.parents if parent.exists())
    if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
        return Finding("ok", "state", f"{path} is made with the first operation")
    fix = f"let this user write {folder}, or set state.url to another file"
    return Finding("failure", "state", f"{path} cannot be made in {folder}", fix)


async def _cluster(settings: Settings) -> AsyncIterator[Finding]:
    from trio_tools.server.start_checks import why_no_cluster  # noqa: PLC0415 - loads the SDK

    await trio.lowlevel.checkpoint()
    sent = [name for name, chosen in settings.operations.items() if chosen.runs == "cluster"]
    if not (sent or "cluster" in settings.model_fields_set):
        return
    address = settings.cluster.address
    reason = await why_no_cluster(address)
    if reason:
        what, _, fix = reason.partition(": ")
        yield Finding("failure", "cluster", f"cluster.address is {address!r}, but {what}", fix)
    else:
        used = f"for {', '.join(sent)}" if sent else "for operations of the application"
        how = "is started here when it is needed" if address == "local" else "accepts connections"
        yield Finding("ok", "cluster", f"{address} {how}, {used}")


async def _http(settings: Settings) -> AsyncIterator[Finding]:
    await trio.lowlevel.checkpoint()
    http = settings.http
    has_tokens = bool(http.tokens or http.token_file)
    if http.host in {"127.0.0.1", "::1", "localhost"} or has_tokens:
        words = "with tokens" if has_tokens else "without tokens, for this machine alone"
        yield Finding("ok", "http", f"would be served on {http.host}:{http.port}, {words}")
    elif http.insecure:
        yield Finding(
            "warning",
            "http",
            f"{http.host}:{http.port} would be served to everybody who reaches it",
            "set http.token_file and remove http.insecure",
        )
    else:
        fix = "set http.token_file (trio-tools serve refuses to start otherwise)"
        yield Finding("failure", "http", f"{http.host} needs tokens", fix)


async def _hosts(settings: Settings, host: str | None) -> AsyncIterator[Finding]:
    entries = await run_in_tool_thread(installed_entries, Path.cwd())
    for name, file, entry in entries:
        if host not in {None, name}:
            continue
        command = str(entry.get("command", ""))
        if Path(command).is_absolute() and not os.access(command, os.X_OK):
            words = f"{file} names {command}, which is not there"
            yield Finding("failure", f"host {name}", words, f"trio-tools install {name}")
        else:
            yield Finding("ok", f"host {name}", f"has the entry in {file}")
    known = {name for name, _, _ in entries}
    if host is not None and host not in known:
        fix = f"trio-tools install {host}"
        yield Finding("warning", f"host {host}", "has no entry for the server", fix)
    elif not entries:
        fix = f"trio-tools install {'|'.join(HOSTS)}"
        yield Finding("warning", "hosts", "no host on this machine has an entry for it", fix)
    for name in HOSTS:
        if name == host or (host is None and name in known):
            for advice in advice_for(name, settings):
                yield Finding(advice.level, f"answers in {name}", advice.message, advice.fix)


def _show(findings: list[Finding]) -> None:
    from rich.console import Console  # noqa: PLC0415 - not for --json
    from rich.text import Text  # noqa: PLC0415

    console = Console()
    for finding in findings:
        mark, style = _MARKS[finding.level]
        line = Text.assemble((mark, style), " ", (finding.subject, "bold"), f": {finding.message}")
        console.print(line, soft_wrap=True)
        if finding.fix:
            console.print(Text(f"     to do: {finding.fix}"), soft_wrap=True)
    failed = sum(finding.level == "failure" for finding in findings)
    warned = sum(finding.level == "warning" for finding in findings)
    console.print(f"{len(findings)} checked, {failed} failed, {warned} warnings")
    sys.stdout.flush()
