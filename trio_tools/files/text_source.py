"""A file of records as blocks of text, with any packing and encoding.

A plain file is read from an offset. A packed file, or one whose encoding has line ends of several
bytes, is read again from its beginning.
"""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, BinaryIO

import trio

from trio_tools.files.text_layers import (
    DAMAGED,
    ODD,
    ODD_BYTES,
    DamagedFileError,
    Readable,
    Recoded,
    is_wide,
    unpacked,
)

if TYPE_CHECKING:
    from trio_tools.files.text_format import TextFormat

MAX_RECORD_BYTES = 1_000_000

_BLOCK_BYTES = 65_536
_LEAST_BYTES = 16_384  # minimum of one read, also for a small block such as a header
_LINE_ENDS = (b"\n", b"\r")


def has_long_line(text: str, lines: list[str]) -> bool:
    """Whether a line of a text may be larger than the bound on a record."""
    most = MAX_RECORD_BYTES // 4  # this many characters have at most the bytes of a record
    return len(text) > most and max(map(len, lines)) > most


class TextSource:
    """Blocks of whole lines from a file, as bytes and as text.

    Attributes:
        format: The format of the file.
        offset: Number of bytes before the next block: of the file, or of its unpacked content; in
            UTF-8 if its own encoding is a wide one.
        codec: Decodes a block, with `ODD_BYTES` for its errors.
    """

    def __init__(self, file: BinaryIO, known: TextFormat) -> None:
        self.format = known
        self.offset = 0
        self.codec = "utf-8" if is_wide(known.encoding) else known.encoding
        self._end = b"\r" if known.line_end == "r" else b"\n"
        self._file = file
        self._stream = _layers(file, known)
        self._rest = b""
        self._at_end = False
        self._skip_mark()

    def seek(self, offset: int, *, anywhere: bool = False) -> None:
        """Continue at `offset`, which must be the beginning of a line unless `anywhere`.

        Raises:
            ValueError: It is not the beginning of a line.
        """
        if not offset:
            return
        if self.format.is_seekable:
            self._file.seek(offset - 1)
            last = self._file.read(1)
            self._rest = b""
        else:
            size = offset - self.offset
            passed, self._rest = self._rest[:size], self._rest[size:]
            last = self._pass_over(size - len(passed)) if size > len(passed) else passed[-1:]
        if last not in _LINE_ENDS and not (anywhere and last):
            raise ValueError(offset)
        self.offset = offset

    def read_block(self, least: int = 1) -> bytes:
        """Return whole lines of at least `least` bytes; nothing at the end.

        The last line of the file may have no line end. Neither has a line that is longer than a
        record may be: it is returned as far as it was read.
        """
        trio.from_thread.check_cancelled()
        parts, size = [self._rest], len(self._rest)
        self._rest = b""
        cut = 0
        while not self._at_end:
            part = self._read(min(max(least - size, _LEAST_BYTES), _BLOCK_BYTES))
            parts.append(part)
            size += len(part)
            if not part:
                self._at_end = True
            last = part.rfind(self._end)
            if (last >= 0 and size >= least) or size > MAX_RECORD_BYTES + least:
                cut = len(part) - last - 1 if last >= 0 else 0
                break
        block = b"".join(parts)
        if cut:
            block, self._rest = block[:-cut], block[-cut:]
        self.offset += len(block)
        return block

    def skip_line(self) -> None:
        """Continue after the next line end, without keeping the text before it."""
        while not self.at_end():
            trio.from_thread.check_cancelled()
            part, self._rest = self._rest or self._read(_BLOCK_BYTES), b""
            end = part.find(self._end) + 1
            self.offset += end or len(part)
            if end:
                self._rest = part[end:]
                return

    def at_end(self) -> bool:
        """Whether nothing follows the last block."""
        if self._rest:
            return False
        if not self._at_end:
            self._rest = self._read(_BLOCK_BYTES)
            self._at_end = not self._rest
        return self._at_end

    def is_whole(self, block: bytes) -> bool:
        """Whether a block ends with a complete line, not inside of one that is too long."""
        return block.endswith(self._end) or self.at_end()

    def decode(self, block: bytes) -> str:
        """Return the text of a block. Bytes that are not in the encoding become `ODD`."""
        return block.decode(self.codec, ODD_BYTES)

    def length(self, text: str) -> int:
        """Return the bytes of a text that `decode` returned."""
        if text.isascii():
            return len(text)
        odd = len(ODD.findall(text))
        return len(ODD.sub("", text).encode(self.codec)) + odd

    def odd_reason(self, text: str) -> str | None:
        """Return the error in the bytes of a text; None without one."""
        found = ODD.search(text)
        if found is None:
            return None
        return (
            f"{self.format.encoding!r} codec can't decode byte 0x{ord(found[0]) - 0xDC00:02x} "
            f"(character {found.start() + 1} of the record)"
        )

    def _read(self, size: int) -> bytes:
        try:
            return self._stream.read(size)
        except DAMAGED as error:
            raise DamagedFileError(
                f"the file is truncated or damaged and cannot be unpacked further ({error})"
            ) from error

    def _pass_over(self, size: int) -> bytes:
        last = b""
        while size:
            trio.from_thread.check_cancelled()
            part = self._read(min(size, 2**18))
            if not part:
                return b""
            size -= len(part)
            last = part[-1:]
        return last

    def _skip_mark(self) -> None:
        if is_wide(self.format.encoding):
            return  # the layer below has done it
        start = self._read(len(codecs.BOM_UTF8))
        if start == codecs.BOM_UTF8 and self.codec == "utf-8":
            self.offset = len(start)
        else:
            self._rest = start


def _layers(file: BinaryIO, known: TextFormat) -> Readable:
    stream: Readable = unpacked(file, known.packing) if known.packing else file
    return Recoded(stream, known.encoding) if is_wide(known.encoding) else stream
