"""The token file, read again when it changes, without closing connections."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

CHECK_SECONDS: Final = 2.0
"""Seconds between checks of the file."""

_log = logging.getLogger("trio_tools")

_Version = tuple[Path, int, int, int]


async def watch_tokens(file: Callable[[], Path | None], read_again: Callable[[], None]) -> None:
    """Read the tokens again whenever their file changes, until cancelled.

    If they cannot be read, the previous ones stay, and the log says why.

    Args:
        file: Returns the path of the file; None without one.
        read_again: Reads and applies the tokens; raises ValueError or OSError before any change.
    """
    before = None  # the file may have changed between the start of the server and now
    while True:
        path = file()
        version = None if path is None else _version(path)
        if version not in {before, None}:
            try:
                read_again()
            except (ValueError, OSError) as error:
                _log.error("the tokens stay as they were: %s", error)
        before = version or before
        await trio.sleep(CHECK_SECONDS)


def _version(file: Path) -> _Version | None:
    """Return a value that differs after each change; None while the file is being replaced."""
    try:
        found = file.stat()
    except OSError:
        return None
    return file, found.st_mtime_ns, found.st_ino, found.st_size
