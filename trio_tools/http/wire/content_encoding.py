"""Content encodings undone under a cap, so that a small body cannot become a large one.

Each codec is asked for at most as many bytes as there is room for, and stops there: a bomb costs
no more memory than the cap, whatever it would have expanded to.
"""

from __future__ import annotations

import importlib
import importlib.util
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from trio_tools.http.wire.errors import Code, FetchError

MAX_ENCODINGS = 3
_MAX_ZSTD_WINDOW_LOG = 23  # 8 MiB; RFC 9659: no HTTP client needs to accept more


class _Codec(Protocol):
    errors: type[Exception]
    """What it raises when the bytes are not of its encoding."""

    def decode(self, data: bytes, room: int) -> bytes:
        """Take in `data` and return at most `room` (at least 1) bytes of output.

        Output beyond `room` is lost, so the codec is of no further use once it has filled it.
        """
        ...

    def has_ended(self) -> bool:
        """Whether all that the encoding promises has come, its checksum included."""
        ...


class _Gzip:
    def __init__(self, wbits: int = zlib.MAX_WBITS | 16) -> None:
        self.errors: type[Exception] = zlib.error
        self._zlib = zlib.decompressobj(wbits)

    def decode(self, data: bytes, room: int) -> bytes:
        return self._zlib.decompress(data, room)

    def has_ended(self) -> bool:
        return self._zlib.eof


class _Deflate:
    """What is called "deflate" is a zlib stream or, against the standard, a raw one."""

    def __init__(self) -> None:
        self.errors: type[Exception] = zlib.error
        self._start = b""
        self._codec: _Gzip | None = None

    def decode(self, data: bytes, room: int) -> bytes:
        if self._codec is None:
            data = self._start = self._start + data
            if len(data) < 2:  # noqa: PLR2004 - the two bytes of a zlib header tell
                return b""
            is_zlib = data[0] & 0x0F == zlib.DEFLATED and int.from_bytes(data[:2], "big") % 31 == 0
            self._codec = _Gzip(zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS)
        return self._codec.decode(data, room)

    def has_ended(self) -> bool:
        return self._codec is not None and self._codec.has_ended()


class _Brotli:
    def __init__(self) -> None:
        # Optional, untyped, and only needed where a server uses it.
        brotli: Any = importlib.import_module("brotli")
        self.errors: type[Exception] = brotli.error
        self._decompressor = brotli.Decompressor()

    def decode(self, data: bytes, room: int) -> bytes:
        output: bytes = self._decompressor.process(data, output_buffer_limit=room)
        return output[:room]

    def has_ended(self) -> bool:
        return bool(self._decompressor.is_finished())


class _Zstd:
    def __init__(self) -> None:
        zstd: Any = importlib.import_module("backports.zstd")
        self.errors: type[Exception] = zstd.ZstdError
        window = {zstd.DecompressionParameter.window_log_max: _MAX_ZSTD_WINDOW_LOG}
        self._decompressor = zstd.ZstdDecompressor(options=window)

    def decode(self, data: bytes, room: int) -> bytes:
        if self._decompressor.eof:
            return b""  # what follows the frame is none of it
        output: bytes = self._decompressor.decompress(data, max_length=room)
        return output

    def has_ended(self) -> bool:
        return bool(self._decompressor.eof)


_CODECS: dict[str, Callable[[], _Codec]] = {
    "gzip": _Gzip,
    "x-gzip": _Gzip,
    "deflate": _Deflate,
    "br": _Brotli,
    "zstd": _Zstd,
}
KNOWN_ENCODINGS = frozenset(_CODECS)
_OPTIONAL = {"br": "brotli", "zstd": "backports.zstd"}


def accepted_encodings() -> str:
    """Return the value for an Accept-Encoding header: what can be undone here."""
    return ", ".join(
        name
        for name in ("gzip", "deflate", "br", "zstd")
        if name not in _OPTIONAL or importlib.util.find_spec(_OPTIONAL[name]) is not None
    )


def content_encodings(value: bytes) -> list[str]:
    """Return what a Content-Encoding declares, in the order in which it was applied."""
    if not value:
        return []
    names = (part.strip() for part in value.decode("latin-1").lower().split(","))
    return [name for name in names if name and name != "identity"]


class CappedDecoder:
    """Undoes content encodings until `max_bytes` have come out.

    Args:
        encodings: In the order they were applied; known are gzip, deflate, br and zstd.
        max_bytes: Most bytes of output in all; also bounds what stands between two encodings.

    Raises:
        FetchError: `INVALID_ENCODING` if one is unknown, or there are more than three.
    """

    def __init__(self, encodings: Sequence[str], max_bytes: int) -> None:
        if len(encodings) > MAX_ENCODINGS:
            raise _invalid(f"{len(encodings)} content encodings, more than {MAX_ENCODINGS}")
        self._codecs = [_codec(name) for name in reversed(encodings)]
        self._rooms = [max_bytes for _ in encodings]
        self.full = False

    def decode(self, data: bytes) -> bytes:
        """Take in the next bytes of the body and return what comes out, maybe nothing.

        Sets `full` once `max_bytes` have come out; what would follow is lost.

        Raises:
            FetchError: `INVALID_ENCODING`, the bytes are not what the encoding says.
        """
        if self.full:
            return b""
        for position, codec in enumerate(self._codecs):
            if not data:
                return b""
            try:
                data = codec.decode(data, self._rooms[position])
            except codec.errors as exc:
                raise _invalid(f"a broken content encoding ({exc})") from exc
            self._rooms[position] -= len(data)
            if not self._rooms[position]:
                self.full = True
        return data

    def finish(self) -> None:
        """Say that the body has ended, not `full`.

        Raises:
            FetchError: `INVALID_ENCODING`, an encoding has not: something is missing.
        """
        if not all(codec.has_ended() for codec in self._codecs):
            raise _invalid("a broken content encoding (it ends too early)")


def _codec(name: str) -> _Codec:
    try:
        return _CODECS[name]()
    except KeyError:
        raise _invalid(f"the unknown content encoding {name!r}") from None
    except ImportError:
        raise _invalid(
            f"the content encoding {name!r}, for which {_OPTIONAL[name]} is not installed"
        ) from None


def _invalid(what: str) -> FetchError:
    return FetchError(
        f"The body has {what}.",
        code=Code.INVALID_ENCODING,
        remediation="The server is broken or was not listening; trying again may help.",
    )
