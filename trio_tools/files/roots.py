"""The only access to the file system: a path becomes an open file inside a root, or an error.

A path is resolved component by component from the root, and so is each link in it. Nothing
outside the roots is ever accessed, so no answer reveals what exists there. The result is then
opened in the same way without following links. If something is replaced between the two steps,
the open fails instead of leaving the root.
"""

from __future__ import annotations

import errno
import heapq
import os
import stat
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, NamedTuple

from trio_tools.answers.errors import (
    Forbidden,
    InvalidArgument,
    NotFound,
    ToolFailure,
    UpstreamFailed,
)
from trio_tools.answers.shortages import is_shortage, local_shortage
from trio_tools.files.beneath import (
    FILE_FLAGS,
    FOLDER_FLAGS,
    OPENS_BENEATH,
    PASS_FLAGS,
    Folders,
    Place,
    lexical_place,
    open_beneath,
    parts_of,
)

DEFAULT_MAX_FILE_BYTES = 2**30
_MAX_PATH_CHARS = 4_096  # as Linux has it
_MAX_LINKS = 40  # as Linux has it


class FolderEntry(NamedTuple):
    """A file in a folder, or a link."""

    name: str
    is_link: bool


class FileRoots:
    """The folders that callers may read. Nothing outside of them can be opened.

    Holds no open file, so threads may share it.

    Args:
        roots: Existing folders. Links in them are resolved once, here. Without a root, every path
            is forbidden.
        max_file_bytes: The largest file that `open_binary` opens.
        setting: The name of their setting, for messages.

    Raises:
        ValueError: A root is not an existing folder, or the system, such as Windows, cannot open
            a file beneath a folder without following links.
    """

    def __init__(
        self,
        roots: Sequence[Path],
        *,
        max_file_bytes: int = DEFAULT_MAX_FILE_BYTES,
        setting: str = "file_roots",
    ) -> None:
        if roots and not OPENS_BENEATH:
            raise ValueError(
                f"{setting}: this system cannot open a file beneath a folder without following "
                f"links, so nothing would keep a caller inside: leave {setting} empty here"
            )
        for root in roots:
            if not root.is_dir():
                raise ValueError(f"{setting}: {str(root)!r} is not a folder: create it first")
        self.roots = tuple(root.resolve() for root in roots)
        # By their given names too: a link in a root may use the operator's name.
        named = [parts_of(str(root.absolute())) for root in roots]
        self._root_of = {
            **dict(zip(named, self.roots, strict=True)),
            **{parts_of(str(root)): root for root in self.roots},
        }
        self.max_file_bytes = max_file_bytes

    def resolve(self, path: str) -> Path:
        """Return the real path of `path`, which may not exist.

        Args:
            path: Absolute, or relative to a root; with several roots the first one that has it.

        Raises:
            Forbidden: It lies outside the roots.
            InvalidArgument: It is not a valid path.
        """
        place = self._locate(path)
        return place.root.joinpath(*place.parts)

    def is_folder(self, path: str) -> bool:
        """Whether `path` is a folder inside the roots.

        Raises:
            Forbidden: It lies outside the roots.
            InvalidArgument: It is not a valid path.
        """
        try:
            descriptor = open_beneath(self._locate(path), PASS_FLAGS)
        except OSError:
            return False
        os.close(descriptor)
        return True

    def open_binary(self, path: str, *, max_bytes: int | None = None) -> BinaryIO:
        """Open a regular file at its beginning, for reading with a buffer.

        Args:
            path: As for `resolve`.
            max_bytes: A bound on the size of the file below `max_file_bytes`.

        Raises:
            Forbidden: It lies outside the roots, or the system denies reading it.
            NotFound: The file does not exist.
            InvalidArgument: It is too large, or a folder, device, pipe or socket.
        """
        limit = self.max_file_bytes if max_bytes is None else min(max_bytes, self.max_file_bytes)
        with ExitStack() as on_refusal:
            descriptor = self._open(path, FILE_FLAGS)
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

    def open_folder_of(self, path: Path) -> int:
        """Return a descriptor of the folder of a resolved path. The caller closes it.

        Raises:
            OSError: It cannot be opened.
            Forbidden: It lies outside the roots.
        """
        return open_beneath(self._locate(str(path.parent)), FOLDER_FLAGS)

    def list_folder(self, path: str, *, after: str = "", count: int) -> list[FolderEntry]:
        """Return up to `count` regular files and links of a folder, in order of name.

        Sub-folders are skipped. A link may lead anywhere. Memory is bounded by `count` for any
        number of files; each call reads the whole folder.

        Args:
            path: The folder, as for `resolve`.
            after: Only names that sort after this one.
            count: Limit of returned names, at least 1.

        Raises:
            Forbidden: It lies outside the roots, or the system denies reading it.
            NotFound: The folder does not exist.
        """
        descriptor = self._open(path, FOLDER_FLAGS)
        try:
            with os.scandir(descriptor) as entries:
                return heapq.nsmallest(
                    count,
                    (
                        FolderEntry(entry.name, entry.is_symlink())
                        for entry in entries
                        if entry.name > after
                        and (entry.is_symlink() or entry.is_file(follow_symlinks=False))
                    ),
                )
        except OSError as error:
            raise _refusal(path, error) from error
        finally:
            os.close(descriptor)

    def _locate(self, path: str) -> Place:
        """Find the root that `path` ends in. Accesses nothing outside of the roots."""
        if len(path) > _MAX_PATH_CHARS:  # each component would be looked up
            raise _too_long()
        try:
            if b"\0" in os.fsencode(path):
                raise InvalidArgument(f"path {path!r} leads to no file: it has a NUL")
        except UnicodeEncodeError as error:
            raise InvalidArgument(f"path {path!r} leads to no file: {error}") from error
        if path.startswith("/"):
            starts = [self._beneath(parts_of(path))]
        else:
            starts = [Place(root, parts_of(path)) for root in self.roots]
        places = [place for start in starts if start and (place := self._walk(path, start))]
        if not places:
            raise Forbidden(
                f"{path!r} is outside the folders that this server may read",
                error_code="OUTSIDE_FILE_ROOTS",
                remediation="Name a file under one of the folders of the setting file_roots, "
                "or ask the operator to add its folder there.",
                data={"file_roots": [str(root) for root in self.roots]},
            )
        return next((place for place in places if place.exists), places[0])

    def _beneath(self, parts: tuple[str, ...]) -> Place | None:
        """Return where an absolute path enters a root, without access to the file system."""
        for words in (parts, tuple(parts_of(os.path.normpath("/" + "/".join(parts))))):
            for length in range(len(words), -1, -1):
                root = self._root_of.get(words[:length])
                if root is not None:
                    return Place(root, words[length:])
        return None

    def _walk(self, path: str, start: Place) -> Place | None:
        """Resolve the components of `start`, with links. None if it leaves the roots."""
        root, links = start.root, 0
        todo = [*reversed(start.parts)]
        done: list[str] = []
        with Folders(root) as folders:
            while todo:
                part = todo.pop()
                if part == "..":
                    if not done:
                        return None
                    done.pop()
                    folders.leave()
                    continue
                target = folders.read_link(part)
                if target is None:
                    done.append(part)
                    if not folders.enter(part) and todo:
                        return lexical_place(root, done, todo)
                    continue
                links += 1
                if links > _MAX_LINKS:
                    raise InvalidArgument(f"{path!r} leads through too many links: name its end")
                if target.startswith("/"):
                    beneath = self._beneath(parts_of(target))
                    if beneath is None:
                        return None
                    root, parts = beneath.root, beneath.parts
                    done.clear()
                    folders.start_at(root)
                else:
                    parts = parts_of(target)
                todo += reversed(parts)
            return Place(root, tuple(done), folders.exists)

    def _open(self, path: str, flags: int) -> int:
        place = self._locate(path)
        try:
            return open_beneath(place, flags)
        except OSError as error:
            raise _refusal(path, error) from error


def _refusal(path: str, error: OSError) -> ToolFailure:  # noqa: PLR0911 - a table
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
    if is_shortage(error):
        return local_shortage(error.strerror or str(error))
    return UpstreamFailed(f"{path!r} cannot be opened: {error.strerror}")


def _too_long() -> InvalidArgument:
    return InvalidArgument("path is longer than the system allows: check it")


def _not_regular(path: str) -> InvalidArgument:
    return InvalidArgument(
        f"{path!r} is a device, a pipe or a socket: name a regular file",
        error_code="NOT_A_REGULAR_FILE",
    )


def too_large(what: str, size: int, limit: int) -> InvalidArgument:
    """Return the error for `what` of at least `size` bytes, above a limit of `limit` bytes."""
    return InvalidArgument(
        f"{what} has {size:,} bytes or more; at most {limit:,} are allowed: take a smaller part",
        error_code="TOO_LARGE",
        data={"max_bytes": limit},
    )
