"""Files opened beneath a folder: component by component, without following a link."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, Self

# Whether a file can be opened relative to its folder without following links. Windows cannot, so
# roots are not possible there, and these flags are not used.
OPENS_BENEATH = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")
_COMMON_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC if OPENS_BENEATH else os.O_RDONLY
# The open of a pipe must not block, and a terminal must not become the controlling terminal.
FILE_FLAGS = _COMMON_FLAGS | (os.O_NONBLOCK | os.O_NOCTTY if OPENS_BENEATH else 0)
FOLDER_FLAGS = _COMMON_FLAGS | (os.O_DIRECTORY if OPENS_BENEATH else 0)
# Opens a folder to pass through it, not to list it. Not available on macOS.
PASS_FLAGS = FOLDER_FLAGS | getattr(os, "O_PATH", 0)


class Place(NamedTuple):
    """A root, and the way from it to a file or folder."""

    root: Path
    parts: tuple[str, ...]
    """Components below the root. None is `..`, and none was a link at its resolution."""
    exists: bool = True
    """Whether a file or folder of that name existed then."""


class Folders:
    """The open folders from a root down to the current position. Follows no link."""

    def __init__(self, root: Path) -> None:
        self._open = ExitStack()
        self._stack: list[int | None] = []  # None for a component that cannot be entered
        self.exists = True
        self.start_at(root)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def start_at(self, root: Path) -> None:
        """Return to a root."""
        self._open.close()
        self._stack = [self._keep(str(root), None)]

    def enter(self, part: str) -> bool:
        """Go down. Return whether the component is a folder that can be entered."""
        folder = self._stack[-1]
        descriptor = None if folder is None else self._keep(part, folder)
        self._stack.append(descriptor)
        if descriptor is None and folder is not None:
            self.exists = os.access(part, os.F_OK, dir_fd=folder, follow_symlinks=False)
        return descriptor is not None

    def leave(self) -> None:
        """Go up."""
        self._stack.pop()

    def read_link(self, part: str) -> str | None:
        """Return the target of a link; None if it is not a link."""
        folder = self._stack[-1]
        if folder is None:
            return None
        try:
            return os.readlink(part, dir_fd=folder)
        except OSError:  # not a link, missing, or name too long: the open reports it
            return None

    def _keep(self, part: str, folder: int | None) -> int | None:
        try:
            descriptor = os.open(part, PASS_FLAGS, dir_fd=folder)
        except OSError:
            return None
        self._open.callback(os.close, descriptor)
        return descriptor


def parts_of(path: str) -> tuple[str, ...]:
    """Return the components of a path, which may be `..`."""
    return tuple(part for part in path.split("/") if part not in {"", "."})


def lexical_place(root: Path, done: list[str], todo: list[str]) -> Place | None:
    """Return the location below a missing component or a file, with `..` applied to the text."""
    for part in reversed(todo):
        if part != "..":
            done.append(part)
        elif done:
            done.pop()
        else:
            return None
    return Place(root, tuple(done), exists=False)


def open_beneath(place: Place, flags: int) -> int:
    """Open the last component with `flags`, each one relative to the folder before it."""
    if not place.parts:
        return os.open(place.root, FOLDER_FLAGS)
    folder = os.open(place.root, FOLDER_FLAGS)
    for part in place.parts[:-1]:
        folder = _step(folder, part, FOLDER_FLAGS)
    return _step(folder, place.parts[-1], flags)


def _step(folder: int, part: str, flags: int) -> int:
    try:
        return os.open(part, flags, dir_fd=folder)
    finally:
        os.close(folder)
