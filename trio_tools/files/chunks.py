"""Bytes in chunks, with a check for a cancelled caller between any two of them.

A worker thread cannot be interrupted. It can only check whether its call was cancelled. One check
per chunk bounds the time from a cancel to the end of the work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from trio_tools.files.roots import too_large
from trio_tools.settings.threads import check_cancelled

if TYPE_CHECKING:
    from collections.abc import Iterator


def read_chunks(file: BinaryIO, *, chunk_bytes: int, max_bytes: int) -> Iterator[bytes]:
    """Yield the rest of `file` in order, `chunk_bytes` at a time (the last may be shorter).

    In a tool's thread a cancel of the caller ends it before the next chunk.

    Args:
        file: Open for reading.
        chunk_bytes: Number of bytes in memory at a time, at least 1.
        max_bytes: A file that became larger than this after it was opened is refused.

    Raises:
        InvalidArgument: The file has more than `max_bytes`.
    """
    total = 0
    while chunk := file.read(chunk_bytes):
        check_cancelled()
        total += len(chunk)
        if total > max_bytes:
            raise too_large("the file", total, max_bytes)
        yield chunk
