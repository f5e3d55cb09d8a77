"""Files that tools write into one folder of the operator, each complete or not at all.

A file is written under a temporary name and renamed when it is complete. So a reader never finds
an incomplete file, and after a failure or a cancel the old file is unchanged.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from trio_tools.answers.errors import Forbidden, InvalidArgument, UpstreamFailed, brief_repr
from trio_tools.files.roots import FileRoots

FORMATS: Final = {".jsonl": "JSON Lines", ".ndjson": "JSON Lines", ".csv": "CSV"}
"""The formats of output files, by the suffix of the name."""

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
_MODE = 0o600
_MAX_NAME_BYTES = 255
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Written(NamedTuple):
    """A complete file."""

    path: Path
    size_bytes: int


class OutputFolder:
    """The folder that tools may write into.

    Holds no open file, so threads may share it.

    Args:
        folder: An existing folder; None forbids writing.

    Raises:
        ValueError: It is not a folder, or the system cannot open files beneath a folder without
            following links.
    """

    def __init__(self, folder: Path | None) -> None:
        roots = () if folder is None else (folder,)
        self._inside = FileRoots(roots, setting="output_root")
        self.is_open = folder is not None

    def check(self, name: str) -> Path:
        """Return the path of a file of that name, with all links resolved.

        Raises:
            Forbidden: Writing is forbidden, or the name leads out of the folder.
            InvalidArgument: Its suffix is not in `FORMATS`, its folder does not exist, or it cannot
                be the name of a file.
        """
        if not self.is_open:
            raise Forbidden(
                "output_file is not allowed here: let the operator set output_root to a folder "
                "that may be written, or leave output_file out",
                error_code="NO_OUTPUT_ROOT",
            )
        try:
            path = self._inside.resolve(name)
        except Forbidden as error:
            raise Forbidden(
                f"output_file {name!r} is outside the folder that this server may write: give a "
                "path relative to it, such as results.jsonl",
                error_code="OUTSIDE_OUTPUT_ROOT",
                data={"output_root": str(self._inside.roots[0])},
            ) from error
        if len(os.fsencode(path.name)) > _MAX_NAME_BYTES or _CONTROLS.search(str(path)):
            raise InvalidArgument(
                f"output_file must have no control characters, and at most {_MAX_NAME_BYTES} bytes "
                f"after its last slash, got {brief_repr(name)}: name a shorter one",
                data={"argument": "output_file"},
            )
        if path.suffix.lower() not in FORMATS:
            raise InvalidArgument(
                f"output_file must end in {', '.join(FORMATS)}, got {name!r}: the suffix says how "
                "it is written",
                data={"argument": "output_file", "suffixes": list(FORMATS)},
            )
        if path.is_dir():
            raise InvalidArgument(f"output_file {name!r} is a folder: name a file in it")
        if not path.parent.is_dir():
            raise InvalidArgument(
                f"output_file {name!r} is in a folder that is not there: name one that is, or "
                "leave the folder out"
            )
        return path

    def write(self, name: str, lines: Iterable[bytes]) -> Written:
        """Write a file, replacing one of the same name. Blocks; call it in a thread.

        Args:
            name: As for `check`.
            lines: Its bytes, iterated lazily. If the iteration raises, nothing is written.

        Raises:
            Forbidden: As `check` does.
            InvalidArgument: As `check` does.
            UpstreamFailed: The system refuses to write it, or the disk is full.
        """
        path = self.check(name)
        beside = f".{path.name[:40]}.{secrets.token_hex(8)}.part"
        try:
            folder = self._inside.open_folder_of(path)
        except OSError as error:
            raise _not_written(name, error) from error
        try:
            with os.fdopen(os.open(beside, _FLAGS, _MODE, dir_fd=folder), "wb") as file:
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())
                size = file.tell()
            os.replace(beside, path.name, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)
        except OSError as error:
            raise _not_written(name, error) from error
        finally:
            with suppress(OSError):  # it was renamed, or it is incomplete
                os.unlink(beside, dir_fd=folder)
            os.close(folder)
        return Written(path, size)


def _not_written(name: str, error: OSError) -> UpstreamFailed:
    return UpstreamFailed(
        f"output_file {name!r} cannot be written ({error.strerror}): the operator can make room or "
        "allow it",
        error_code="OUTPUT_NOT_WRITTEN",
    )
