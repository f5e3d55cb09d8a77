"""The file of tokens, read again when it changes, without dropping anybody."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

CHECK_SECONDS: Final = 2.0
"""How often the file is looked at."""

_log = logging.getLogger("trio_tools")

_Version = tuple[Path, int, int, int]


async def watch_tokens(file: Callable[[], Path | None], read_again: Callable[[], None]) -> None:
    """Read the tokens again whenever their file is another one, until this is cancelled.

    If they cannot be read then, those of before stay, and the log says why.

    Args:
        file: Returns where they are; None if they are in no file.
        read_again: Reads and takes them; raises ValueError or OSError before anything has changed.
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
    """Return what differs after each change; None while the file is being replaced."""
    try:
        found = file.stat()
    except OSError:
        return None
    return file, found.st_mtime_ns, found.st_ino, found.st_size
