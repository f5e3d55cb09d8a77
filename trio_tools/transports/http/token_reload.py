"""Tokens, read again without dropping anybody: when their file changes, and on SIGHUP."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from trio_tools.settings import HttpSettings
from trio_tools.transports.http.authentication import Authenticator

CHECK_SECONDS: Final = 2.0
"""How often the file is looked at."""

_log = logging.getLogger("trio_tools")


async def reload_tokens(
    settings: HttpSettings, replace: Callable[[Authenticator], None], *, handle_signals: bool
) -> None:
    """Read the tokens again whenever it is due, until this is cancelled.

    If they cannot be read then, those of before stay, and the log says why.

    Args:
        settings: Where they are.
        replace: Called with the new rules.
        handle_signals: Whether SIGHUP asks for it too; only in the main thread.
    """

    def read_again() -> None:
        try:
            rules = Authenticator.from_settings(settings)
        except (ValueError, OSError) as error:
            _log.error("the tokens stay as they were: %s", error)
        else:
            replace(rules)
            _log.info("read the tokens again: %d clients", len(rules.digests))

    async with trio.open_nursery() as nursery:
        if settings.token_file is not None:
            nursery.start_soon(_watch, settings.token_file, read_again)
        if handle_signals and hasattr(signal, "SIGHUP"):
            nursery.start_soon(_listen, read_again)


async def _listen(read_again: Callable[[], None]) -> None:
    with trio.open_signal_receiver(signal.SIGHUP) as hangups:
        async for _ in hangups:
            read_again()


async def _watch(file: Path, read_again: Callable[[], None]) -> None:
    before = _version(file)
    read_again()  # the file may have changed between the start of the server and now
    while True:
        await trio.sleep(CHECK_SECONDS)
        version = _version(file)
        if version not in {before, None}:
            read_again()
        before = version or before


def _version(file: Path) -> tuple[int, int, int] | None:
    """Return what differs after each change; None while the file is being replaced."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
