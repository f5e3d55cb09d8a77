"""The layers between the bytes of a file and its text: packing and encoding."""

from __future__ import annotations

import bz2
import codecs
import lzma
import re
import zlib
from typing import TYPE_CHECKING, BinaryIO, Protocol

from backports import zstd

from trio_tools.files.compression import Decoder, make_decoder

if TYPE_CHECKING:
    from collections.abc import Callable

DAMAGED = (zlib.error, lzma.LZMAError, zstd.ZstdError, EOFError, OSError)
"""The exceptions that reading a damaged file raises."""

_BLOCK_BYTES = 65_536
# Bytes that are not in the encoding are replaced by these, so that the text around them stays
# readable.
ODD = re.compile("[\udc00-\udcff]")
ODD_BYTES = "trio_tools.odd_bytes"


def _keep_odd_bytes(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    bad = error.object[error.start : error.end]
    return "".join(chr(0xDC00 + byte) for byte in bad), error.end


codecs.register_error(ODD_BYTES, _keep_odd_bytes)


def has_odd(text: str) -> bool:
    """Whether a decoded text contains bytes that are not in its encoding."""
    return not text.isascii() and ODD.search(text) is not None


class DamagedFileError(ValueError):
    """A packed file that cannot be unpacked to its end."""


class Readable(Protocol):
    """A source of bytes: a file, or a layer above it."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, none at the end."""
        ...


def is_wide(encoding: str) -> bool:
    """Whether its line end is not a single byte, or that byte may be part of a character."""
    return encoding.startswith(("utf-16", "utf-32", "utf_16", "utf_32", "iso2022", "hz", "utf-7"))


class Recoded:
    """Text of a wide encoding, in UTF-8."""

    def __init__(self, stream: Readable, encoding: str) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)(ODD_BYTES)
        self._first = True

    def read(self, size: int, /) -> bytes:
        """Return some text for a part of `size` bytes; empty at the end."""
        while True:
            part = self._stream.read(size)
            text = self._decoder.decode(part, final=not part)
            if self._first and text:
                text = text.removeprefix("\ufeff")
                self._first = False
            if text or not part:
                return text.encode("utf-8", "surrogatepass")


def unpacked(file: BinaryIO, packing: str) -> Readable:
    """Return the content of a packed file."""
    if packing == "bzip2":
        return _Unpacked(file, bz2.BZ2Decompressor)
    return _Unpacked(file, lambda: make_decoder(packing))


class _Unpacked:
    """The unpacked content of a file with all of its members, read on demand."""

    def __init__(self, file: BinaryIO, make: Callable[[], Decoder]) -> None:
        self._file = file
        self._make = make
        self._decoder = make()

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, none at the end."""
        data = b""
        while True:
            if self._decoder.eof:
                data = self._decoder.unused_data or self._file.read(_BLOCK_BYTES)
                if not data.strip(b"\0"):  # empty, or the padding of a tape
                    return b""
                self._decoder = self._make()
            part = self._decoder.decompress(data, size)
            if part:
                return part
            if not self._decoder.eof:
                data = self._file.read(_BLOCK_BYTES)
                if not data:
                    raise EOFError("it ends too early")
