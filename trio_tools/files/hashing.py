"""Digests of texts and files, for a worker thread.

`hashlib` releases the interpreter lock while it hashes a chunk, so a large file uses one core and
blocks nothing else.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trio_tools.answers.errors import InvalidArgument, brief_repr
from trio_tools.files.chunks import read_chunks
from trio_tools.settings.threads import check_cancelled

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from trio_tools.files.roots import FileRoots

ALGORITHMS = (
    "sha256",
    "sha224",
    "sha384",
    "sha512",
    "sha3_224",
    "sha3_256",
    "sha3_384",
    "sha3_512",
    "blake2b",
    "blake2s",
    "sha1",
    "md5",
)
BROKEN_ALGORITHMS = frozenset({"sha1", "md5"})
"""Algorithms with known collisions: suitable for checksums, not for security."""

_CHUNK_BYTES = 2**20  # 5 ms of the slowest algorithm, 1,000 checks for a file of 1 GB
_MOST_BYTES_PER_CHAR = 4


@dataclass(frozen=True, slots=True)
class Digest:
    """The digest of a text or a file."""

    algorithm: str
    hexdigest: str
    size_bytes: int
    secure: bool
    """False for an algorithm with known collisions."""


def hash_text(text: str, *, algorithm: str = "sha256") -> Digest:
    """Return the digest of `text` in UTF-8.

    Raises:
        InvalidArgument: Unknown algorithm, or a text that UTF-8 cannot express.
    """
    return _digest(encoded_chunks(text), algorithm)


def hash_file(roots: FileRoots, path: str, *, algorithm: str = "sha256") -> Digest:
    """Return the digest of a file inside the roots, which is read once, a chunk at a time.

    Raises:
        Forbidden, NotFound, InvalidArgument: As `FileRoots.open_binary`; also an unknown algorithm.
    """
    check_algorithm(algorithm)
    with roots.open_binary(path) as file:
        chunks = read_chunks(file, chunk_bytes=_CHUNK_BYTES, max_bytes=roots.max_file_bytes)
        return _digest(chunks, algorithm)


def check_algorithm(algorithm: str) -> None:
    """Refuse an algorithm that is not one of `ALGORITHMS`.

    Raises:
        InvalidArgument: It is not; the message lists them.
    """
    if algorithm not in ALGORITHMS:
        raise InvalidArgument(
            f"algorithm {brief_repr(algorithm)} is unknown: use one of {', '.join(ALGORITHMS)}",
            error_code="UNKNOWN_ALGORITHM",
            data={"algorithms": list(ALGORITHMS)},
        )


def encode_text(text: str, *, start: int = 0) -> bytes:
    """Return `text` in UTF-8.

    Args:
        text: All of a text, or a part of one.
        start: Where in the whole text the part begins.

    Raises:
        InvalidArgument: It contains a lone surrogate; the message has its position.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(
            f"text is not valid Unicode: character {start + error.start} is the lone surrogate "
            f"{text[error.start]!r}; remove it",
            error_code="NOT_TEXT",
        ) from error


def encoded_chunks(text: str, *, chunk_bytes: int = _CHUNK_BYTES) -> Iterator[bytes]:
    """Yield `text` in UTF-8, at most `chunk_bytes` at a time: no second copy of all of it is made.

    In a tool's thread a cancel of the caller ends it before the next chunk.

    Raises:
        InvalidArgument: As `encode_text`.
    """
    count = chunk_bytes if text.isascii() else chunk_bytes // _MOST_BYTES_PER_CHAR
    for start in range(0, len(text), count):
        check_cancelled()
        yield encode_text(text[start : start + count], start=start)


def _digest(chunks: Iterable[bytes], algorithm: str) -> Digest:
    check_algorithm(algorithm)
    secure = algorithm not in BROKEN_ALGORITHMS
    digest = hashlib.new(algorithm, usedforsecurity=secure)
    size = 0
    for chunk in chunks:
        digest.update(chunk)
        size += len(chunk)
    return Digest(algorithm, digest.hexdigest(), size, secure)
