"""A unix socket, bound with its permissions, replacing a stale one."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

_BACKLOG: Final = 1_024
_LONGEST_PATH: Final = 107  # bytes, on Linux
_PROBE_SECONDS: Final = 1.0


def bind_unix(path: Path, mode: int) -> tuple[socket.socket, Callable[[], None]]:
    """Listen on a unix socket, replacing one that no process serves any more.

    Its mode is set before it listens, so no other user can connect in between.

    Args:
        path: Its path.
        mode: Its permissions.

    Returns:
        The socket, and a function that removes its file unless another process has replaced it.

    Raises:
        OSError: Another file or a live server is there; the path is too long; or the folder
            cannot be written.
    """
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise OSError(
            errno.ENAMETOOLONG,
            f"cannot listen on {path}: the path of a unix socket has at most {_LONGEST_PATH} bytes",
        )
    try:
        _remove_stale(path)
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            bound.bind(os.fspath(path))
            path.chmod(mode)
            bound.listen(_BACKLOG)
            made = path.stat()
        except OSError:
            bound.close()
            raise
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {path}: {error.strerror}") from error
    return bound, partial(_remove, path, (made.st_dev, made.st_ino))


def _remove(path: Path, made: tuple[int, int]) -> None:
    with suppress(OSError):
        found = path.lstat()
        if (found.st_dev, found.st_ino) == made:
            path.unlink()


def _remove_stale(path: Path) -> None:
    """Remove a socket on which no process listens.

    Raises:
        OSError: A process listens, or it is not a socket.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise OSError(errno.EEXIST, "something else than a socket is there: move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_SECONDS)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
        except OSError as error:
            raise OSError(
                error.errno, f"cannot find out whether a process uses it: {error}"
            ) from None
        else:
            raise OSError(errno.EADDRINUSE, "another process listens there")
