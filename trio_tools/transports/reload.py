"""Settings, read again while the server serves: on SIGHUP, and on request."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress

import trio

from trio_tools.settings import Settings
from trio_tools.settings.changes import Changes
from trio_tools.settings.logs import set_log_level
from trio_tools.settings.problems import problem_lines

_log = logging.getLogger("trio_tools")


class ReloadRefused(Exception):  # noqa: N818 - an answer, not an error of ours
    """The settings cannot be read, or are wrong. Nothing is changed.

    Args:
        lines: One line for each problem.
    """

    def __init__(self, lines: list[str]) -> None:
        super().__init__("; ".join(lines))
        self.lines = lines


class Reload:
    """Reads the settings again and applies them to a server; concurrent reloads run in order.

    Args:
        read: Returns the current settings, or raises ValueError or OSError. Called in a thread.
        take: Applies them to the server; raises ValueError or OSError before any change.
        owns_log: Whether the level of the process's log is changed too.
        around: Entered during each reload.
    """

    def __init__(
        self,
        read: Callable[[], Settings],
        take: Callable[[Settings], Changes],
        *,
        owns_log: bool,
        around: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._read = read
        self._take = take
        self._owns_log = owns_log
        self._around = around
        self._one_at_a_time = trio.Lock()

    async def __call__(self) -> Changes:
        """Read the settings and apply what a running server can. The result is logged.

        A cancel while they are read changes nothing.

        Raises:
            ReloadRefused: They are wrong; nothing is changed.
        """
        async with self._one_at_a_time:
            with self._around():
                try:
                    settings = await trio.to_thread.run_sync(self._read, abandon_on_cancel=True)
                    changes = self._take(settings)
                except (ValueError, OSError) as error:
                    lines = problem_lines(error)
                    _log.error("the settings stay as they were: %s", "; ".join(lines))
                    raise ReloadRefused(lines) from None
                if self._owns_log and "log_level" in changes.taken:
                    set_log_level(settings.log_level)
        if changes.taken:
            _log.info("took other settings: %s", ", ".join(changes.taken))
        if changes.needs_restart:
            names = ", ".join(changes.needs_restart)
            _log.warning("changed settings that need a restart: %s", names)
        if not any(changes):
            _log.info("read the settings again: none has changed")
        return changes

    async def listen(self) -> None:
        """Reload at each SIGHUP, until cancelled. Only in the main thread.

        Without such a signal on the system, nothing happens.
        """
        if not hasattr(signal, "SIGHUP"):
            return
        with trio.open_signal_receiver(signal.SIGHUP) as hangups:
            async for _ in hangups:
                with suppress(ReloadRefused):  # it is logged
                    await self()
