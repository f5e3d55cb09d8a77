"""The only door to the file system: a path becomes an open file inside a root, or an error.

The path is resolved first, links and all, and judged by where it ends. The result is then opened
component by component from the root, following no link, so whatever is swapped in between the
two steps makes the open fail instead of leading outside.
"""

from __future__ import annotations

import errno
import heapq
import os
import stat
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from trio_tools.answers.errors import (
    Forbidden,
    InvalidArgument,
    NotFound,
    ToolFailure,
    UpstreamFailed,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_MAX_FILE_BYTES = 2**30
_MAX_PATH_CHARS = 4_096  # as Linux has it
# Whether a file can be opened relative to its folder, following no link. Not so on Windows, where
# there can be no roots then, and these flags are of no use.
_BENEATH = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")
_COMMON_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC if _BENEATH else os.O_RDONLY
# A pipe must not block the open, and a terminal must not become ours.
_FILE_FLAGS = _COMMON_FLAGS | (os.O_NONBLOCK | os.O_NOCTTY if _BENEATH else 0)
_FOLDER_FLAGS = _COMMON_FLAGS | (os.O_DIRECTORY if _BENEATH else 0)


class _Place(NamedTuple):
    root: Path
    parts: tuple[str, ...]
    """Components below the root. None is `..`, and none was a link when it was resolved."""


class FileRoots:
    """The folders that callers may read, and nothing else.

    Holds no open file, so threads may share it.

    Args:
        roots: Existing folders. Links in them are resolved once, here. Without any root every
            path is forbidden.
        max_file_bytes: The largest file that `open_binary` opens.

    Raises:
        ValueError: A root is not an existing folder, or the system, such as Windows, cannot open
            a file beneath a folder without following links.
    """

    def __init__(
        self, roots: Sequence[Path], *, max_file_bytes: int = DEFAULT_MAX_FILE_BYTES
    ) -> None:
        if roots and not _BENEATH:
            raise ValueError(
                "file_roots: this system cannot open a file beneath a folder without following "
                "links, so nothing would keep a caller inside: leave file_roots empty here"
            )
        for root in roots:
            if not root.is_dir():
                raise ValueError(f"file_roots: {str(root)!r} is not a folder: create it first")
        self.roots = tuple(root.resolve() for root in roots)
        self.max_file_bytes = max_file_bytes

    def resolve(self, path: str) -> Path:
        """Return the real path that `path` stands for, which may not exist.

        Args:
            path: Absolute, or relative to a root; with several roots the first one that has it.

        Raises:
            Forbidden: It lies outside the roots.
            InvalidArgument: No path looks like that.
        """
        place = self._locate(path)
        return place.root.joinpath(*place.parts)

    def is_folder(self, path: str) -> bool:
        """Tell whether `path` is a folder inside the roots.

        Raises:
            Forbidden: It lies outside the roots.
            InvalidArgument: No path looks like that.
        """
        # Path.is_dir() would raise for a name that is too long or a folder that is closed to us.
        return os.path.isdir(self.resolve(path))  # noqa: PTH112

    def open_binary(self, path: str, *, max_bytes: int | None = None) -> BinaryIO:
        """Open a regular file at its beginning, for reading with a buffer.

        Args:
            path: As for `resolve`.
            max_bytes: A bound on the size of the file below `max_file_bytes`.

        Raises:
            Forbidden: It lies outside the roots, or the system denies reading it.
            NotFound: There is no such file.
            InvalidArgument: It is too large, or a folder, device, pipe or socket.
        """
        limit = self.max_file_bytes if max_bytes is None else min(max_bytes, self.max_file_bytes)
        with ExitStack() as on_refusal:
            descriptor = self._open(path, _FILE_FLAGS)
            on_refusal.callback(os.close, descriptor)
            status = os.fstat(descriptor)
            if stat.S_ISDIR(status.st_mode):
                raise InvalidArgument(
                    f"{path!r} is a folder: name a file in it", error_code="IS_A_FOLDER"
                )
            if not stat.S_ISREG(status.st_mode):
                raise _not_regular(path)
            if status.st_size > limit:
                raise too_large(repr(path), status.st_size, limit)
            on_refusal.pop_all()
        return os.fdopen(descriptor, "rb")

    def list_folder(self, path: str, *, after: str = "", count: int) -> list[str]:
        """Return the names of up to `count` regular files in a folder, in order of name.

        Links and sub-folders are left out. Memory is bounded by `count`, however many files
        there are; each call reads the whole folder.

        Args:
            path: The folder, as for `resolve`.
            after: Only names that sort after this one.
            count: The most names to return, at least 1.

        Raises:
            Forbidden: It lies outside the roots, or the system denies reading it.
            NotFound: There is no such folder.
        """
        descriptor = self._open(path, _FOLDER_FLAGS)
        try:
            with os.scandir(descriptor) as entries:
                return heapq.nsmallest(
                    count,
                    (
                        entry.name
                        for entry in entries
                        if entry.name > after and entry.is_file(follow_symlinks=False)
                    ),
                )
        finally:
            os.close(descriptor)

    def _locate(self, path: str) -> _Place:
        """Find the root that `path` ends in. Says nothing about what lies outside, not even if."""
        if len(path) > _MAX_PATH_CHARS:  # of which each component would be looked up
            raise _too_long()
        try:
            ends = [(root / path).resolve() for root in self.roots]  # an absolute path stands alone
        except (ValueError, RuntimeError) as error:  # a NUL, a lone surrogate; a circle of links
            raise InvalidArgument(f"path {path!r} leads to no file: {error}") from error
        inside = [
            _Place(root, end.relative_to(root).parts)
            for end in ends
            for root in self.roots
            if end.is_relative_to(root)
        ]
        if not inside:
            raise Forbidden(
                f"{path!r} is outside the folders that this server may read",
                error_code="OUTSIDE_FILE_ROOTS",
                remediation="Name a file under one of the folders of the setting file_roots, "
                "or ask the operator to add its folder there.",
                data={"file_roots": [str(root) for root in self.roots]},
            )
        # Path.exists() would raise for a name that is too long or a folder that is closed to us.
        return next((it for it in inside if os.path.exists(it.root.joinpath(*it.parts))), inside[0])  # noqa: PTH110

    def _open(self, path: str, flags: int) -> int:
        place = self._locate(path)
        try:
            return _open_beneath(place, flags)
        except OSError as error:
            raise _refusal(path, error) from error


def _open_beneath(place: _Place, flags: int) -> int:
    """Open the last component with `flags`, each one relative to the folder before it."""
    if not place.parts:
        return os.open(place.root, _FOLDER_FLAGS)
    folder = os.open(place.root, _FOLDER_FLAGS)
    for part in place.parts[:-1]:
        folder = _step(folder, part, _FOLDER_FLAGS)
    return _step(folder, place.parts[-1], flags)


def _step(folder: int, part: str, flags: int) -> int:
    try:
        return os.open(part, flags, dir_fd=folder)
    finally:
        os.close(folder)


def _refusal(path: str, error: OSError) -> ToolFailure:
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return NotFound(f"{path!r} does not exist: check the name, or list its folder first")
    if error.errno in {errno.EACCES, errno.EPERM}:
        return Forbidden(f"the system denies reading {path!r}: the operator can allow it")
    if error.errno == errno.ENAMETOOLONG:
        return _too_long()
    if error.errno == errno.ELOOP:
        return Forbidden(f"{path!r} became a link while it was opened: call again")
    if error.errno == errno.ENXIO:  # a socket cannot be opened at all
        return _not_regular(path)
    return UpstreamFailed(f"{path!r} cannot be opened: {error.strerror}")


def _too_long() -> InvalidArgument:
    return InvalidArgument("path is longer than the system allows: check it")


def _not_regular(path: str) -> InvalidArgument:
    return InvalidArgument(
        f"{path!r} is a device, a pipe or a socket: name a regular file",
        error_code="NOT_A_REGULAR_FILE",
    )


def too_large(what: str, size: int, limit: int) -> InvalidArgument:
    """Return the error for `what`, of `size` bytes (or so far that many), above `limit` bytes."""
    return InvalidArgument(
        f"{what} has {size:,} bytes or more; at most {limit:,} are allowed: take a smaller part",
        error_code="TOO_LARGE",
        data={"max_bytes": limit},
    )
