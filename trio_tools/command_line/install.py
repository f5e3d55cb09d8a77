"""`trio-tools install HOST` and `uninstall HOST`: the entry in the host's own file."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import trio

from trio_tools.command_line.commented_json import NotEditable
from trio_tools.command_line.host_files import (
    add_to_json,
    add_to_toml,
    entry_in,
    remove_from_json,
    remove_from_toml,
)
from trio_tools.command_line.hosts import ENTRY_NAME, HOSTS, Host
from trio_tools.settings import Settings

_MAX_FILE_BYTES = 50_000_000
_T = TypeVar("_T")


async def install(options: argparse.Namespace, _: Settings, __: list[str]) -> int:
    """Write the entry into the host's file, or show what would be written."""
    await trio.lowlevel.checkpoint()
    host, file = _chosen(options)
    entry = host.entry(serve_command(options))
    if options.print:
        _say(_as_written(host, file, options.name, entry))
        return 0
    before = _read(file)
    add = add_to_toml if _is_toml(file) else add_to_json
    if _editing(file, lambda: _entry(before, host, file, options.name)) == entry:
        _say(f"{file} has that entry already: nothing to do")
        return 0
    after = _editing(file, lambda: add(before, host.container, options.name, entry))
    _carry_out(options, file, before, after)
    if not options.dry_run:
        _say(f"{host.title} has {options.name} now, in {file}. To use it: {host.restart}.")
        _say(f"Of an answer, {host.title} shows its model {host.forwards}.")
        _say(f"Undo: trio-tools uninstall {options.host_name}{_scope_words(options)}")
    return 0


async def uninstall(options: argparse.Namespace, _: Settings, __: list[str]) -> int:
    """Remove the entry from the host's file; every other byte stays."""
    await trio.lowlevel.checkpoint()
    host, file = _chosen(options)
    before = _read(file)
    remove = remove_from_toml if _is_toml(file) else remove_from_json
    if _editing(file, lambda: _entry(before, host, file, options.name)) is None:
        _say(f"{file} has no entry {options.name!r}: nothing to do")
        return 0
    after = _editing(file, lambda: remove(before, host.container, options.name))
    _carry_out(options, file, before, after)
    if not options.dry_run:
        _say(f"{options.name} is removed from {file}")
    return 0


def serve_command(options: argparse.Namespace) -> list[str]:
    """Return the command that serves with the settings from the options.

    Its paths are absolute, since a host chooses the working directory of a server.
    """
    words = [*_program(), "serve"]
    if options.config:
        words += ["--config", str(Path(options.config).resolve())]
    for root in options.file_root or ():
        words += ["--file-root", str(Path(root).resolve())]
    for file in options.upstreams or ():
        words += ["--upstreams", str(Path(file).resolve())]
    if options.state:
        words += ["--state", _absolute(options.state)]
    for assignment in options.set:
        words += ["--set", assignment]
    for flag in ("toolset", "tools", "log_level", "log_format"):
        if getattr(options, flag):
            words += [f"--{flag.replace('_', '-')}", getattr(options, flag)]
    return words


def _absolute(state: str) -> str:
    """Return the path of the state, independent of the working directory."""
    scheme, slashes, path = state.partition(":///")
    if scheme != "sqlite" or not slashes:
        return state
    return f"{scheme}{slashes}{Path(path).expanduser().resolve()}"


def installed_entries(project: Path) -> list[tuple[str, Path, dict[str, Any]]]:
    """Return (host, file, entry) for each host whose file has an entry for this server."""
    found: list[tuple[str, Path, dict[str, Any]]] = []
    for name, host in HOSTS.items():
        files = [host.user_file()]
        files += [project / host.project_file] if host.project_file else []
        for file in files:
            try:
                entry = _entry(_read(file), host, file, ENTRY_NAME)
            except (OSError, ValueError):
                continue
            if isinstance(entry, dict):
                found.append((name, file, cast("dict[str, Any]", entry)))
    return found


def _program() -> list[str]:
    beside = Path(sys.executable).with_name("trio-tools.exe" if os.name == "nt" else "trio-tools")
    if beside.is_file():
        return [str(beside)]
    found = shutil.which("trio-tools")
    # -P: a module in the host's working directory must not run instead of ours.
    return [found] if found else [sys.executable, "-P", "-m", "trio_tools"]


def _chosen(options: argparse.Namespace) -> tuple[Host, Path]:
    host = HOSTS[options.host_name]
    if options.file:
        return host, Path(options.file)
    return host, host.file("project" if options.project else "user", Path.cwd())


def _is_toml(file: Path) -> bool:
    return file.suffix == ".toml"


def _entry(text: str, host: Host, file: Path, name: str) -> Any:
    return entry_in(text, host.container, name, toml=_is_toml(file))


def _as_written(host: Host, file: Path, name: str, entry: dict[str, object]) -> str:
    if _is_toml(file):
        return add_to_toml("", host.container, name, entry).rstrip()
    return json.dumps({host.container: {name: entry}}, indent=2, ensure_ascii=False)


def _editing(file: Path, edit: Callable[[], _T]) -> _T:
    try:
        return edit()
    except NotEditable as error:
        raise ValueError(f"{file} was not changed: {error}") from None


def _read(file: Path) -> str:
    try:
        if file.stat().st_size > _MAX_FILE_BYTES:
            raise ValueError(f"{file} has more than {_MAX_FILE_BYTES:,} bytes: edit it by hand")
        return file.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not UTF-8: add the entry by hand") from None


def _carry_out(options: argparse.Namespace, file: Path, before: str, after: str) -> None:
    if options.dry_run:
        lines = difflib.unified_diff(
            before.splitlines(keepends=True),
            after.splitlines(keepends=True),
            str(file),
            f"{file} (not written: --dry-run)",
        )
        _say("".join(line if line.endswith("\n") else f"{line}\n" for line in lines).rstrip())
        return
    _write(file, after)


def _write(file: Path, text: str) -> None:
    """Replace the file atomically, so no reader sees a part of it. Links and mode are kept."""
    target = file.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o600
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(text.encode("utf-8"))
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(mode)
        Path(temporary).replace(target)
    except OSError:
        Path(temporary).unlink()
        raise


def _scope_words(options: argparse.Namespace) -> str:
    words = " --project" if options.project else ""
    words += f" --file {options.file}" if options.file else ""
    return words + (f" --name {options.name}" if options.name != ENTRY_NAME else "")


def _say(text: str) -> None:
    print(text)  # noqa: T201
