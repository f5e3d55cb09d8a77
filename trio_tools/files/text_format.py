"""The format of a text file: packing, encoding and line ends, detected at its beginning."""

from __future__ import annotations

import codecs
from itertools import pairwise
from typing import BinaryIO, NamedTuple

from trio_tools.answers.errors import InvalidArgument
from trio_tools.files.text_layers import (
    DAMAGED,
    ODD,
    ODD_BYTES,
    DamagedFileError,
    is_wide,
    unpacked,
)

_SAMPLE_BYTES = 65_536
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
_WESTERN = "cp1252"
_LEAST_DIFFERENT = 3  # different non-UTF-8 bytes that are needed for a guess


class TextFormat(NamedTuple):
    """The detected format of a file."""

    packing: str
    """Empty for none."""
    encoding: str
    line_end: str
    """`n` for lines that end in LF or CR LF, `r` for CR alone."""
    guessed: bool = False
    """Whether the encoding was neither given nor marked, and is not UTF-8."""

    @property
    def is_seekable(self) -> bool:
        """Whether reading can begin at an offset of the file itself."""
        return not self.packing and not is_wide(self.encoding)

    def has_codec(self) -> bool:
        """Whether the encoding exists."""
        try:
            codecs.lookup(self.encoding)
        except (LookupError, ValueError):
            return False
        return True


def find_format(file: BinaryIO, encoding: str | None) -> TextFormat:
    """Detect the format at the beginning of a file. Its position does not change.

    Args:
        file: At its beginning.
        encoding: The encoding that the operator gives; a byte order mark overrides it.

    Raises:
        InvalidArgument: The encoding does not exist.
        DamagedFileError: Its compressed data is damaged at the beginning.
    """
    start = file.read(8)
    file.seek(0)
    packing = next((name for mark, name in _PACKINGS if start.startswith(mark)), "")
    stream = unpacked(file, packing) if packing else file
    try:
        sample = b""
        while len(sample) < _SAMPLE_BYTES and (part := stream.read(_SAMPLE_BYTES - len(sample))):
            sample += part
    except DAMAGED as error:
        raise DamagedFileError(f"the file cannot be unpacked ({error})") from error
    finally:
        file.seek(0)
    found, guessed = _find_encoding(sample, encoding)
    text = sample.decode(found, ODD_BYTES)
    line_end = "r" if "\r" in text and "\n" not in text else "n"
    return TextFormat(packing, found, line_end, guessed)


def _find_encoding(sample: bytes, said: str | None) -> tuple[str, bool]:
    for mark, name in _MARKS:
        if sample.startswith(mark):
            return name, False
    if said is not None:
        return _check_encoding(said), False
    if _decodes(sample, "utf-8"):
        return "utf-8", False
    return _guess_encoding(sample)


def _guess_encoding(sample: bytes) -> tuple[str, bool]:
    """Find the encoding of a sample that is not UTF-8, and whether it is a guess."""
    text = sample.decode("utf-8", ODD_BYTES)
    odd = ODD.findall(text)
    # Some bad bytes among valid characters: this is damaged UTF-8, not another encoding.
    beyond_ascii = sum(not character.isascii() for character in text)
    if beyond_ascii >= 2 * len(odd):
        return "utf-8", False
    for half, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        if sample[half::2].count(0) * 3 > len(sample) and _decodes(sample, name):
            return name, True
    text = sample.decode(_WESTERN, "replace")
    letters = sum(map(str.isalpha, text))
    if sum(byte >= 0x80 for byte in sample) * 3 < letters:  # noqa: PLR2004 - ASCII ends there
        return (_WESTERN, True) if _reads_as_text(text) else ("utf-8", False)
    # One stray byte, even if repeated, is not evidence. A guess from it would silently corrupt
    # each record that contains it, and the valid characters beside it.
    if len(set(odd)) < _LEAST_DIFFERENT:
        return "utf-8", False
    from charset_normalizer import from_bytes  # noqa: PLC0415 - few files need it

    best = from_bytes(sample).best()
    if best is None or not _reads_as_text(sample.decode(best.encoding, "replace")):
        return "utf-8", False
    return best.encoding, True


def _reads_as_text(text: str) -> bool:
    """Whether characters beyond ASCII are letters beside others, and not isolated odd bytes."""
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
