"""The codecs of a body: gzip, deflate, br and zstd, each decoded a bounded piece at a time.

A codec returns at most as many bytes as it is asked for, and keeps the rest of its input: a bomb
costs no more memory than the cap, whatever it would expand to.
"""

from __future__ import annotations

import importlib
import importlib.util
import zlib
from collections.abc import Callable
from typing import Any, Protocol

from trio_tools.http.wire.errors import Code, FetchError

_MAX_ZSTD_WINDOW_LOG = 23  # 8 MiB; RFC 9659: no HTTP client needs to accept more
# Setting up a decompressor costs microseconds, and an empty member has 20 bytes.
_MAX_MEMBERS = 10_000


class Codec(Protocol):
    """Decodes one coding. It is fed and read by turns."""

    errors: type[Exception]
    """The exception that it raises for bytes that are not in its coding."""

    magics: tuple[bytes, ...]
    """The possible first bytes of its coding; empty if any are possible."""

    def feed(self, data: bytes) -> None:
        """Add the next bytes."""
        ...

    def read(self, room: int) -> bytes:
        """Return at most `room` (at least 1) bytes of output; b"" if it needs more input."""
        ...

    def has_ended(self) -> bool:
        """Whether the coding is complete, including its checksum."""
        ...


class _Zlib:
    def __init__(self, wbits: int) -> None:
        self._zlib = zlib.decompressobj(wbits)
        self.eof = False
        self.rest = b""
        """Unused input; after the end, the bytes that follow."""

    def decompress(self, data: bytes, room: int) -> bytes:
        output = self._zlib.decompress(data, room)
        self.eof = self._zlib.eof
        self.rest = self._zlib.unused_data if self.eof else self._zlib.unconsumed_tail
        return output


class _ZstdFrame:
    def __init__(self, make: Callable[[], Any]) -> None:
        self._frame = make()
        self.eof = False
        self.rest = b""

    def decompress(self, data: bytes, room: int) -> bytes:
        output: bytes = self._frame.decompress(data, max_length=room)
        self.eof = bool(self._frame.eof)
        self.rest = self._frame.unused_data if self.eof else b""
        return output


class _Members:
    """Gzip members (RFC 1952, 2.2) or zstd frames (RFC 8878, 3), one after the other.

    Bytes after a member that do not begin another one are ignored, as gzip and browsers do.
    """

    def __init__(
        self, make: Callable[[], _Zlib | _ZstdFrame], magics: tuple[bytes, ...], errors: Any
    ) -> None:
        self.errors: type[Exception] = errors
        self.magics = magics
        self._make = make
        self._member: _Zlib | _ZstdFrame | None = make()
        self._count = 1
        self._input = b""
        self._over = False

    def feed(self, data: bytes) -> None:
        if not self._over:
            self._input += data

    def read(self, room: int) -> bytes:
        while not self._over:
            if self._member is None and not self._begin_another():
                return b""
            member = self._member
            assert member is not None
            output = member.decompress(self._input, room)
            self._input = member.rest
            if member.eof:
                self._member = None
            if output or not member.eof:
                return output
        return b""

    def has_ended(self) -> bool:
        # A partial magic number is the beginning of a truncated member.
        return self._member is None and (self._over or not self._input)

    def _begin_another(self) -> bool:
        magics = [magic for magic in self.magics if magic.startswith(self._input[: len(magic)])]
        if not magics:
            self._over, self._input = True, b""
            return False
        if len(self._input) < min(map(len, magics)):
            return False
        self._count += 1
        if self._count > _MAX_MEMBERS:
            raise invalid_body(f"more than {_MAX_MEMBERS} members in its coding")
        self._member = self._make()
        return True


class _Deflate:
    """The coding "deflate": a zlib stream or, against the standard, a raw one."""

    errors: type[Exception] = zlib.error
    magics = ()

    def __init__(self) -> None:
        self._input = b""
        self._stream: _Zlib | None = None

    def feed(self, data: bytes) -> None:
        self._input += data

    def read(self, room: int) -> bytes:
        data = self._input
        if self._stream is None:
            if len(data) < 2:  # noqa: PLR2004 - the two bytes of a zlib header tell
                return b""
            is_zlib = data[0] & 0x0F == zlib.DEFLATED and int.from_bytes(data[:2], "big") % 31 == 0
            self._stream = _Zlib(zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS)
        if self._stream.eof:
            self._input = b""
            return b""
        output = self._stream.decompress(data, room)
        self._input = self._stream.rest
        return output

    def has_ended(self) -> bool:
        return self._stream is not None and self._stream.eof


class _Brotli:
    magics = ()

    def __init__(self) -> None:
        # Optional, without types, and only needed if a server uses it.
        brotli: Any = importlib.import_module("brotli")
        self.errors: type[Exception] = brotli.error
        self._decompressor = brotli.Decompressor()
        self._input = b""
        self._output = b""

    def feed(self, data: bytes) -> None:
        self._input += data

    def read(self, room: int) -> bytes:
        if not self._output:
            more = self._decompressor.can_accept_more_data()
            data, self._input = (self._input, b"") if more else (b"", self._input)
            if more and not data:
                return b""
            # Its own buffer may exceed the limit.
            self._output = self._decompressor.process(data, output_buffer_limit=room)
        output, self._output = self._output[:room], self._output[room:]
        return output

    def has_ended(self) -> bool:
        return bool(self._decompressor.is_finished())


class Plain:
    """The codec of a body that is shown as it is. See `Codec`."""

    errors: type[Exception] = ValueError
    magics = ()

    def __init__(self) -> None:
        self._input = b""

    def feed(self, data: bytes) -> None:
        """Take in the next bytes."""
        self._input += data

    def read(self, room: int) -> bytes:
        """Return at most `room` of them."""
        output, self._input = self._input[:room], self._input[room:]
        return output

    def has_ended(self) -> bool:
        """Return True: nothing tells where it ends."""
        return True


class _Unsupported(Plain):
    """A registered coding that is not supported here."""

    def read(self, room: int) -> bytes:  # noqa: ARG002 - as every codec is asked
        if self._input:
            raise ValueError("it is not supported")
        return b""

    def has_ended(self) -> bool:
        return False


def _gzip() -> Codec:
    return _Members(lambda: _Zlib(zlib.MAX_WBITS | 16), (b"\x1f\x8b\x08",), zlib.error)


def _zstd() -> Codec:
    zstd: Any = importlib.import_module("backports.zstd")
    window = {zstd.DecompressionParameter.window_log_max: _MAX_ZSTD_WINDOW_LOG}
    skippable = tuple(bytes([number]) + b"\x2a\x4d\x18" for number in range(0x50, 0x60))
    return _Members(
        lambda: _ZstdFrame(lambda: zstd.ZstdDecompressor(options=window)),
        (b"\x28\xb5\x2f\xfd", *skippable),
        zstd.ZstdError,
    )


_CODECS: dict[str, Callable[[], Codec]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _Deflate,
    "br": _Brotli,
    "zstd": _zstd,
    **dict.fromkeys(("compress", "x-compress", "exi", "pack200-gzip", "dcb", "dcz"), _Unsupported),
}
KNOWN_ENCODINGS = frozenset(_CODECS)
_OPTIONAL = {"br": "brotli", "zstd": "backports.zstd"}


def accepted_encodings() -> str:
    """Return the value for an Accept-Encoding header: the supported codings."""
    return ", ".join(
        name
        for name in ("gzip", "deflate", "br", "zstd")
        if name not in _OPTIONAL or importlib.util.find_spec(_OPTIONAL[name]) is not None
    )


def content_encodings(value: bytes) -> list[str]:
    """Return the codings of a Content-Encoding, in the order in which they were applied.

    A name that is not a registered coding ("none", "utf-8", "aws-chunked") is ignored.
    """
    if not value:
        return []
    names = (part.strip().strip('"') for part in value.decode("latin-1").lower().split(","))
    return [name for name in names if name in KNOWN_ENCODINGS]


def codec(name: str) -> Codec:
    """Make the codec of a coding in `KNOWN_ENCODINGS`.

    Raises:
        FetchError: `INVALID_ENCODING`, the library for it is not installed.
    """
    try:
        return _CODECS[name]()
    except ImportError:
        raise invalid_body(
            f"the coding {name!r}, for which {_OPTIONAL[name]} is not installed"
        ) from None


def invalid_body(what: str) -> FetchError:
    """Return the error for a body that has a broken or unknown coding."""
    return FetchError(
        f"The body has {what}.",
        code=Code.INVALID_ENCODING,
        remediation="The server is broken or was not listening; trying again may help.",
    )
