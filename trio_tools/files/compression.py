"""Texts and files through zlib, gzip, lzma and zstd, for a worker thread.

All four have one interface: an encoder that receives chunks and is then flushed. Output is kept
only on request, so measuring a file takes the memory of one chunk and the encoder's window.
"""

from __future__ import annotations

import base64
import binascii
import lzma
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from backports import zstd

from trio_tools.answers.errors import InvalidArgument, brief_repr
from trio_tools.files.chunks import read_chunks
from trio_tools.files.hashing import encoded_chunks
from trio_tools.files.roots import too_large
from trio_tools.settings.threads import check_cancelled

if TYPE_CHECKING:
    from trio_tools.files.roots import FileRoots

DEFAULT_MAX_INPUT_BYTES = 50_000_000
DEFAULT_MAX_OUTPUT_BYTES = 1_000_000

_CHUNK_BYTES = 2**13  # the slowest levels take some 25 ms for it
# Chunk of zstd, which would otherwise collect 128 KiB before the next check for a cancel.
_CHUNKS_PER_BLOCK = 4
_UNFOLD_BYTES = 2**18
_WINDOW_BYTES = 2**23  # level 9 of lzma would take 64 MiB and ten times that to search it
_DECODER_MEMORY_BYTES = 2**27


class _Encoder(Protocol):
    def compress(self, data: bytes | memoryview, /) -> bytes: ...
    def flush(self) -> bytes: ...


class Decoder(Protocol):
    """Decompresses one stream. `decompress(b"", size)` continues with the input it has."""

    @property
    def eof(self) -> bool:
        """Whether the stream has ended."""
        ...

    @property
    def unused_data(self) -> bytes:
        """The input after the end of the stream."""
        ...

    def decompress(self, data: bytes, max_length: int = ..., /) -> bytes:
        """Return up to `max_length` bytes."""
        ...


class _Algorithm(NamedTuple):
    levels: range
    default_level: int
    encoder: Callable[[int], _Encoder]
    decoder: Callable[[], Decoder]


@dataclass(frozen=True, slots=True)
class Compressed:
    """The sizes before and after compression."""

    algorithm: str
    level: int
    original_bytes: int
    compressed_bytes: int
    ratio: float | None
    """Compressed bytes per original byte, so smaller is better. None for no bytes."""
    content_base64: str | None
    """The result, if it was requested and kept within the bound."""
    content_left_out: bool
    """True if it was requested and does not keep within the bound."""


def compress_text(
    text: str,
    *,
    algorithm: str = "zstd",
    level: int | None = None,
    max_output_bytes: int = 0,
    max_input_bytes: int = DEFAULT_MAX_INPUT_BYTES,
) -> Compressed:
    """Compress `text` in UTF-8. Runs in a trio worker thread; a cancel ends it within a chunk.

    Args:
        text: The text to compress.
        algorithm: One of `ALGORITHMS`.
        level: Compression level; each algorithm has a default.
        max_output_bytes: Return the result too if it has at most that many bytes; 0 for never.
        max_input_bytes: Limit of bytes of the text in UTF-8.

    Raises:
        InvalidArgument: Unknown algorithm or level, or a text that is too large or that UTF-8
            cannot express.
    """
    size = len(text) if text.isascii() else sum(map(len, encoded_chunks(text)))
    if size > max_input_bytes:
        raise too_large("text", size, max_input_bytes)
    chunks = encoded_chunks(text, chunk_bytes=_CHUNK_BYTES)
    return _compress(chunks, algorithm, level, max_output_bytes)


def compress_file(
    roots: FileRoots,
    path: str,
    *,
    algorithm: str = "zstd",
    level: int | None = None,
    max_output_bytes: int = 0,
    max_input_bytes: int = DEFAULT_MAX_INPUT_BYTES,
) -> Compressed:
    """Compress a file inside the roots, a chunk at a time. Otherwise as `compress_text`.

    Raises:
        Forbidden, NotFound, InvalidArgument: As `FileRoots.open_binary` and `compress_text`.
    """
    check_level(algorithm, level)
    with roots.open_binary(path, max_bytes=max_input_bytes) as file:
        chunks = read_chunks(file, chunk_bytes=_CHUNK_BYTES, max_bytes=max_input_bytes)
        return _compress(chunks, algorithm, level, max_output_bytes)


def decompress_text(
    content_base64: str, *, algorithm: str, max_output_bytes: int = DEFAULT_MAX_OUTPUT_BYTES
) -> str:
    """Return the text that was compressed. Runs in a trio worker thread, as `compress_text`.

    At most `max_output_bytes` and one chunk are in memory, even if the content would be larger.

    Raises:
        InvalidArgument: Not base64, not of that algorithm, truncated, followed by other bytes,
            larger than the bound, or not UTF-8 text.
    """
    decoder = _find(algorithm).decoder()
    try:
        data = base64.b64decode(content_base64, validate=True)
        unfolded = b"".join(_unfold(decoder, data, max_output_bytes))
    except (zlib.error, lzma.LZMAError, zstd.ZstdError, EOFError) as error:
        raise InvalidArgument(
            f"content_base64 is not one whole {algorithm} stream ({error}): "
            "check the algorithm, and that nothing was cut off or added; undo several one by one",
            error_code="NOT_COMPRESSED",
        ) from error
    except (binascii.Error, ValueError) as error:
        raise InvalidArgument(
            f"content_base64 is not base64 ({error}): encode the compressed bytes first",
            error_code="NOT_BASE64",
        ) from error
    try:
        return unfolded.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument(
            f"content_base64 decompresses to {len(unfolded):,} bytes that are not UTF-8 text "
            f"(the first bad one is number {error.start}): only texts can be undone here",
            error_code="NOT_TEXT",
        ) from error


def make_decoder(algorithm: str) -> Decoder:
    """Return a decoder for one stream of `algorithm`, with a bound on memory."""
    return _find(algorithm).decoder()


def check_level(algorithm: str, level: int | None) -> int:
    """Return the level to use: `level`, or the algorithm's default for None.

    Raises:
        InvalidArgument: Unknown algorithm or level; the message lists the known ones.
    """
    found = _find(algorithm)
    if level is None:
        return found.default_level
    if level not in found.levels:
        raise InvalidArgument(
            f"level {level} is not one of {algorithm}: "
            f"use {found.levels[0]} (fast) to {found.levels[-1]} (small)"
        )
    return level


def _compress(
    chunks: Iterator[bytes],
    algorithm: str,
    level: int | None,
    max_output_bytes: int,
) -> Compressed:
    level = check_level(algorithm, level)
    encoder = _find(algorithm).encoder(level)
    original = size = 0
    kept = bytearray()
    for chunk in chunks:
        original += len(chunk)
        size += _keep(kept, encoder.compress(chunk), max_output_bytes)
    size += _keep(kept, encoder.flush(), max_output_bytes)
    wanted, fits = max_output_bytes > 0, size <= max_output_bytes
    return Compressed(
        algorithm,
        level,
        original_bytes=original,
        compressed_bytes=size,
        ratio=size / original if original else None,
        content_base64=base64.b64encode(kept).decode() if wanted and fits else None,
        content_left_out=wanted and not fits,
    )


def _keep(kept: bytearray, part: bytes, limit: int) -> int:
    """Add `part` while all of it fits. Once a part does not fit, nothing is kept."""
    if len(kept) + len(part) <= limit:
        kept += part
    return len(part)


def _unfold(decoder: Decoder, data: bytes, limit: int) -> Iterator[bytes]:
    total = 0
    part = decoder.decompress(data, _UNFOLD_BYTES)
    while part:
        check_cancelled()
        total += len(part)
        if total > limit:
            raise too_large("the unfolded content", total, limit)
        yield part
        part = b"" if decoder.eof else decoder.decompress(b"", _UNFOLD_BYTES)
    if not decoder.eof:
        raise EOFError("it ends too early")
    if decoder.unused_data:
        raise EOFError(f"it goes on for {len(decoder.unused_data):,} bytes after its end")


class _ZlibDecoder:
    """zlib's decoder with the interface of the others, which keep the input they did not use."""

    def __init__(self, window_bits: int) -> None:
        self._decoder = zlib.decompressobj(window_bits)

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data

    def decompress(self, data: bytes, max_length: int = 0, /) -> bytes:
        return self._decoder.decompress(self._decoder.unconsumed_tail + data, max_length)


class _ZstdEncoder:
    """zstd's encoder with blocks of 32 KiB: 0.2 % larger, but a cancel takes effect in 10 ms."""

    def __init__(self, level: int) -> None:
        self._encoder = zstd.ZstdCompressor(level)
        self._chunks = 0

    def compress(self, data: bytes | memoryview, /) -> bytes:
        self._chunks += 1
        ends_block = self._chunks % _CHUNKS_PER_BLOCK == 0
        mode = zstd.ZstdCompressor.FLUSH_BLOCK if ends_block else zstd.ZstdCompressor.CONTINUE
        return self._encoder.compress(data, mode)

    def flush(self) -> bytes:
        return self._encoder.flush()


def _zlib_encoder(level: int) -> _Encoder:
    return zlib.compressobj(level)


def _gzip_encoder(level: int) -> _Encoder:
    return zlib.compressobj(level, zlib.DEFLATED, 16 + zlib.MAX_WBITS)


def _lzma_encoder(level: int) -> _Encoder:
    window = {"dict_size": _WINDOW_BYTES} if level > lzma.PRESET_DEFAULT else {}
    return lzma.LZMACompressor(
        filters=[{"id": lzma.FILTER_LZMA2, "preset": level, **window}],
    )


_ALGORITHMS = {
    "zlib": _Algorithm(range(10), 6, _zlib_encoder, lambda: _ZlibDecoder(zlib.MAX_WBITS)),
    "gzip": _Algorithm(range(10), 6, _gzip_encoder, lambda: _ZlibDecoder(16 + zlib.MAX_WBITS)),
    "lzma": _Algorithm(
        range(10),
        6,
        _lzma_encoder,
        lambda: lzma.LZMADecompressor(memlimit=_DECODER_MEMORY_BYTES),
    ),
    # Above level 11 the start alone takes 20 ms and more without a check for a cancel, and gains
    # almost nothing.
    "zstd": _Algorithm(range(1, 12), 3, _ZstdEncoder, zstd.ZstdDecompressor),
}
ALGORITHMS = tuple(_ALGORITHMS)


def _find(algorithm: str) -> _Algorithm:
    if algorithm not in _ALGORITHMS:
        raise InvalidArgument(
            f"algorithm {brief_repr(algorithm)} is unknown: use one of {', '.join(ALGORITHMS)}",
            error_code="UNKNOWN_ALGORITHM",
            data={"algorithms": list(ALGORITHMS)},
        )
    return _ALGORITHMS[algorithm]
