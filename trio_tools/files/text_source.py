"""A file of records as blocks of text, whatever it is packed and encoded with.

What a file is (packing, encoding, line ends) is found once, at its beginning, and is part of each
position after that. A plain file is read on from an offset. One that is packed, or in an encoding
in which a line end is not one byte, is read again from its beginning.
"""

from __future__ import annotations

import bz2
import codecs
import lzma
import re
import zlib
from itertools import pairwise
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol

import trio
from backports import zstd

from trio_tools.answers.errors import InvalidArgument
from trio_tools.files.compression import Decoder, make_decoder

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_RECORD_BYTES = 1_000_000

_SAMPLE_BYTES = 65_536
_BLOCK_BYTES = 65_536
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_PACKINGS = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "lzma"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)
_DAMAGED = (zlib.error, lzma.LZMAError, zstd.ZstdError, EOFError, OSError)
_WESTERN = "cp1252"
_LEAST_DIFFERENT = 3  # bytes that are not UTF-8, to guess another encoding from
_LINE_ENDS = (b"\n", b"\r")
# Bytes that are not of the encoding become these, so that what is around them is read all the same.
ODD = re.compile("[\udc00-\udcff]")
ODD_BYTES = "trio_tools.odd_bytes"


def _keep_odd_bytes(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    bad = error.object[error.start : error.end]
    return "".join(chr(0xDC00 + byte) for byte in bad), error.end


codecs.register_error(ODD_BYTES, _keep_odd_bytes)


class DamagedFileError(ValueError):
    """A packed file that cannot be unpacked to its end."""


class TextFormat(NamedTuple):
    """What was found at the beginning of a file."""

    packing: str
    """Empty for none."""
    encoding: str
    line_end: str
    """`n` for lines that end in LF or CR LF, `r` for CR alone."""
    guessed: bool = False
    """Whether the encoding was neither said nor marked, nor is it UTF-8."""

    @property
    def is_seekable(self) -> bool:
        """Whether an offset is one of the file itself, at which reading can begin."""
        return not self.packing and not _is_wide(self.encoding)

    def has_codec(self) -> bool:
        """Whether there is such an encoding."""
        try:
            codecs.lookup(self.encoding)
        except (LookupError, ValueError):
            return False
        return True


class Readable(Protocol):
    """What is read from: a file, or a layer above it."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, none at the end."""
        ...


class TextSource:
    """Blocks of whole lines from a file, as bytes and as text.

    Attributes:
        format: What the file is.
        offset: Bytes before the next block: of the file, or of what it unpacks to, in UTF-8 if
            its own encoding is a wide one.
        codec: What decodes a block, with `ODD_BYTES` for its errors.
    """

    def __init__(self, file: BinaryIO, known: TextFormat) -> None:
        self.format = known
        self.offset = 0
        self.codec = "utf-8" if _is_wide(known.encoding) else known.encoding
        self._end = b"\r" if known.line_end == "r" else b"\n"
        self._file = file
        self._stream = _layers(file, known)
        self._rest = b""
        self._at_end = False
        self._skip_mark()

    def seek(self, offset: int, *, anywhere: bool = False) -> None:
        """Go on at `offset`, which must be the beginning of a line unless it may be anywhere.

        Raises:
            ValueError: It is none.
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

        The last line of the file may lack its end, and so does one that is longer than a record
        may be: then it is returned as far as it was read.
        """
        trio.from_thread.check_cancelled()
        parts, size = [self._rest], len(self._rest)
        self._rest = b""
        cut = 0
        while not self._at_end:
            part = self._read(_BLOCK_BYTES)
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
        """Go on behind the next line end, without keeping what is in front of it."""
        while not self.at_end():
            trio.from_thread.check_cancelled()
            part, self._rest = self._rest or self._read(_BLOCK_BYTES), b""
            end = part.find(self._end) + 1
            self.offset += end or len(part)
            if end:
                self._rest = part[end:]
                return

    def at_end(self) -> bool:
        """Whether there is nothing after the last block."""
        if self._rest:
            return False
        if not self._at_end:
            self._rest = self._read(_BLOCK_BYTES)
            self._at_end = not self._rest
        return self._at_end

    def is_whole(self, block: bytes) -> bool:
        """Whether a block ends with a line, and not in the middle of one that is too long."""
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
        """Return what is wrong with the bytes of a text, if anything is."""
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
        except _DAMAGED as error:
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
        if _is_wide(self.format.encoding):
            return  # the layer below has done it
        start = self._read(len(codecs.BOM_UTF8))
        if start == codecs.BOM_UTF8 and self.codec == "utf-8":
            self.offset = len(start)
        else:
            self._rest = start


def find_format(file: BinaryIO, encoding: str | None) -> TextFormat:
    """Look at the beginning of a file, which is left where it was.

    Args:
        file: At its beginning.
        encoding: What the operator says of it, unless a mark in the file says something else.

    Raises:
        InvalidArgument: There is no such encoding.
        DamagedFileError: What it is packed with is damaged at once.
    """
    start = file.read(8)
    file.seek(0)
    packing = next((name for mark, name in _PACKINGS if start.startswith(mark)), "")
    stream = _unpacked(file, packing) if packing else file
    try:
        sample = b""
        while len(sample) < _SAMPLE_BYTES and (part := stream.read(_SAMPLE_BYTES - len(sample))):
            sample += part
    except _DAMAGED as error:
        raise DamagedFileError(f"the file cannot be unpacked ({error})") from error
    finally:
        file.seek(0)
    found, guessed = _find_encoding(sample, encoding)
    text = sample.decode(found, ODD_BYTES)
    line_end = "r" if "\r" in text and "\n" not in text else "n"
    return TextFormat(packing, found, line_end, guessed)


def _find_encoding(sample: bytes, said: str | None) -> tuple[str, bool]:  # noqa: PLR0911
    for mark, name in _MARKS:
        if sample.startswith(mark):
            return name, False
    if said is not None:
        return _check_encoding(said), False
    text = sample.decode("utf-8", ODD_BYTES)
    odd = ODD.findall(text)
    # Some bad bytes among good characters: no other encoding looks like that.
    beyond_ascii = sum(not character.isascii() for character in text)
    if beyond_ascii >= 2 * len(odd) or _decodes(sample, "utf-8"):
        return "utf-8", False
    for half, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        if sample[half::2].count(0) * 3 > len(sample) and _decodes(sample, name):
            return name, True
    text = sample.decode(_WESTERN, "replace")
    letters = sum(map(str.isalpha, text))
    if sum(byte >= 0x80 for byte in sample) * 3 < letters:  # noqa: PLR2004 - ASCII ends there
        return (_WESTERN, True) if _reads_as_text(text) else ("utf-8", False)
    # One stray byte that comes again and again tells nothing. A guess from it would turn each
    # record that has it, and the good characters beside it, into wrong text without a word.
    if len(set(odd)) < _LEAST_DIFFERENT:
        return "utf-8", False
    from charset_normalizer import from_bytes  # noqa: PLC0415 - few files need it

    best = from_bytes(sample).best()
    if best is None or not _reads_as_text(sample.decode(best.encoding, "replace")):
        return "utf-8", False
    return best.encoding, True


def _reads_as_text(text: str) -> bool:
    """Whether characters beyond ASCII are letters, and stand beside others: no lone odd bytes."""
    strange = [character for character in text if not character.isascii()]
    letters = sum(map(str.isalpha, strange)) - sum(map(strange.count, "ÿþ"))
    if not strange or letters * 5 < len(strange) * 4:
        return False
    return any(
        not second.isascii() and first.isalpha() and second.isalpha()
        for first, second in pairwise(text)
    )


def _decodes(sample: bytes, encoding: str) -> bool:
    try:
        codecs.getincrementaldecoder(encoding)().decode(sample)
    except UnicodeDecodeError:
        return False
    return True


def _check_encoding(name: str) -> str:
    try:
        return codecs.lookup(name).name
    except LookupError:
        raise InvalidArgument(
            f"encoding {name!r} of the dataset is unknown: let the operator write one such as "
            "utf-8, cp1252 or shift_jis",
            error_code="UNKNOWN_ENCODING",
        ) from None


def _is_wide(encoding: str) -> bool:
    """Whether a line end is not one byte in it, or a byte that looks like one is something else."""
    return encoding.startswith(("utf-16", "utf-32", "utf_16", "utf_32", "iso2022", "hz", "utf-7"))


def _layers(file: BinaryIO, known: TextFormat) -> Readable:
    stream: Readable = _unpacked(file, known.packing) if known.packing else file
    return _Recoded(stream, known.encoding) if _is_wide(known.encoding) else stream


class _Recoded:
    """Text of a wide encoding, in UTF-8."""

    def __init__(self, stream: Readable, encoding: str) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)(ODD_BYTES)
        self._first = True

    def read(self, size: int, /) -> bytes:
        while True:
            part = self._stream.read(size)
            text = self._decoder.decode(part, final=not part)
            if self._first and text:
                text = text.removeprefix("\ufeff")
                self._first = False
            if text or not part:
                return text.encode("utf-8", "surrogatepass")


def _unpacked(file: BinaryIO, packing: str) -> _Unpacked:
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
        data = b""
        while True:
            if self._decoder.eof:
                data = self._decoder.unused_data or self._file.read(_BLOCK_BYTES)
                if not data.strip(b"\0"):  # nothing, or what pads a tape
                    return b""
                self._decoder = self._make()
            part = self._decoder.decompress(data, size)
            if part:
                return part
            if not self._decoder.eof:
                data = self._file.read(_BLOCK_BYTES)
                if not data:
                    raise EOFError("it ends too early")
