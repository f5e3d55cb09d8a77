"""Codings of a body undone under a cap, so that a small body cannot become a large one.

This is the only place where they are undone: what leaves the engine is plain. Each codec is asked
for at most as many bytes as there is room for, and keeps what is left of its input: a bomb costs no
more memory than the cap, whatever it would have expanded to.

Servers label bodies wrongly. An unknown coding is ignored, and a body that is not in
the coding it claims is shown as it is if it reads as text.
"""

from __future__ import annotations

import codecs
import importlib
import importlib.util
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from trio_tools.http.wire.errors import Code, FetchError

MAX_ENCODINGS = 3
_MAX_ZSTD_WINDOW_LOG = 23  # 8 MiB; RFC 9659: no HTTP client needs to accept more
_PIECE_BYTES = 65_536
# Setting up a decompressor costs microseconds, and an empty member has 20 bytes.
_MAX_MEMBERS = 10_000
# Bytes that are looked at to tell a body from its label.
_LOOK_AT_BYTES = 16
_LEAST_TEXT_BYTES = 2  # one may be what was left of anything
_NOT_IN_TEXT = bytes(set(range(32)) - set(b"\t\n\f\r")) + b"\x7f"


class _Codec(Protocol):
    errors: type[Exception]
    """What it raises when the bytes are not of its coding."""

    magics: tuple[bytes, ...]
    """What its bytes begin with, one of these; empty if anything may be."""

    def feed(self, data: bytes) -> None:
        """Take in the next bytes."""
        ...

    def read(self, room: int) -> bytes:
        """Return at most `room` (at least 1) bytes of output, b"" if it needs more input."""
        ...

    def has_ended(self) -> bool:
        """Whether all that the coding promises has come, its checksum included."""
        ...


class _Zlib:
    def __init__(self, wbits: int) -> None:
        self._zlib = zlib.decompressobj(wbits)
        self.eof = False
        self.rest = b""
        """Input not yet used; behind the end, what follows it."""

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

    Bytes behind one that begin no other are ignored, as gzip and browsers do.
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
        # The beginning of a beginning is a member that was cut.
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
            raise _invalid(f"more than {_MAX_MEMBERS} members in its coding")
        self._member = self._make()
        return True


class _Deflate:
    """What is called "deflate" is a zlib stream or, against the standard, a raw one."""

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
        # Optional, untyped, and only needed where a server uses it.
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
            # It may exceed the limit by what its own buffer holds.
            self._output = self._decompressor.process(data, output_buffer_limit=room)
        output, self._output = self._output[:room], self._output[room:]
        return output

    def has_ended(self) -> bool:
        return bool(self._decompressor.is_finished())


class _Plain:
    errors: type[Exception] = ValueError
    magics = ()

    def __init__(self) -> None:
        self._input = b""

    def feed(self, data: bytes) -> None:
        self._input += data

    def read(self, room: int) -> bytes:
        output, self._input = self._input[:room], self._input[room:]
        return output

    def has_ended(self) -> bool:
        return True


class _Unsupported(_Plain):
    """A registered coding that is not undone here."""

    def read(self, room: int) -> bytes:  # noqa: ARG002 - as every codec is asked
        if self._input:
            raise ValueError("it is not supported")
        return b""

    def has_ended(self) -> bool:
        return False


def _gzip() -> _Codec:
    return _Members(lambda: _Zlib(zlib.MAX_WBITS | 16), (b"\x1f\x8b\x08",), zlib.error)


def _zstd() -> _Codec:
    zstd: Any = importlib.import_module("backports.zstd")
    window = {zstd.DecompressionParameter.window_log_max: _MAX_ZSTD_WINDOW_LOG}
    skippable = tuple(bytes([number]) + b"\x2a\x4d\x18" for number in range(0x50, 0x60))
    return _Members(
        lambda: _ZstdFrame(lambda: zstd.ZstdDecompressor(options=window)),
        (b"\x28\xb5\x2f\xfd", *skippable),
        zstd.ZstdError,
    )


_CODECS: dict[str, Callable[[], _Codec]] = {
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
    """Return the value for an Accept-Encoding header: what can be undone here."""
    return ", ".join(
        name
        for name in ("gzip", "deflate", "br", "zstd")
        if name not in _OPTIONAL or importlib.util.find_spec(_OPTIONAL[name]) is not None
    )


def content_encodings(value: bytes) -> list[str]:
    """Return what a Content-Encoding declares, in the order in which it was applied.

    A name that is not a registered coding ("none", "utf-8", "aws-chunked") is ignored.
    """
    if not value:
        return []
    names = (part.strip().strip('"') for part in value.decode("latin-1").lower().split(","))
    return [name for name in names if name in KNOWN_ENCODINGS]


class _Stage:
    """One codec, and the doubt whether the body is in its coding at all."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._codec = _codec(name)
        # The first bytes, until there are enough of them to tell; None once they are let in.
        self._undecided: bytes | None = b""
        # All input, as long as nothing came of it: it may still be shown as it is.
        self._fruitless: bytes | None = b""

    def feed(self, data: bytes) -> None:
        if self._undecided is None:
            self._let_in(data)
            return
        self._undecided += data
        if len(self._undecided) >= _LOOK_AT_BYTES:
            self.decide()

    def decide(self) -> None:
        """Tell from the first bytes whether they may be of the coding, and let them in."""
        start, self._undecided = self._undecided, None
        if start is None:
            return
        magics = self._codec.magics
        if magics:
            text = not _agree(start, magics) and _has_no_controls(start)
        else:
            text = len(start) >= _LOOK_AT_BYTES and _reads_as_text(start)
        if text:
            self._codec, self._fruitless = _Plain(), None
        self._let_in(start)

    def read(self, room: int) -> bytes:
        try:
            output = self._codec.read(room)
        except self._codec.errors as exc:
            if not self.shows_itself():
                raise _invalid(f"a broken {self.name} coding ({exc})") from exc
            output = self._codec.read(room)
        if output:
            self._fruitless = None
        return output

    def has_ended(self) -> bool:
        return self._codec.has_ended()

    def shows_itself(self) -> bool:
        """Whether the input is shown as it is from now on: nothing came of it, and it is text."""
        start, self._fruitless = self._fruitless, None
        if start is None or len(start) < _LEAST_TEXT_BYTES or not _reads_as_text(start):
            return False
        if _agree(start, self._codec.magics):
            return False  # the beginning of what it claims to be
        self._codec = _Plain()
        self._codec.feed(start)
        return True

    def _let_in(self, data: bytes) -> None:
        self._codec.feed(data)
        if self._fruitless is not None:
            some = len(self._fruitless) <= _PIECE_BYTES
            self._fruitless = self._fruitless + data if some else None


class BodyDecoder:
    """Undoes the codings of a body until `max_bytes` have come out.

    Args:
        codings: In the order they were applied; see `content_encodings`.
        max_bytes: Most bytes of output in all, and between two codings; None for no bound.

    Attributes:
        full: Whether `max_bytes` have come out; what would follow is lost.

    Raises:
        FetchError: `INVALID_ENCODING` if there are more than three, or a library is missing.
    """

    def __init__(self, codings: Sequence[str], max_bytes: int | None) -> None:
        if len(codings) > MAX_ENCODINGS:
            raise _invalid(f"{len(codings)} codings, more than {MAX_ENCODINGS}")
        self._stages = [_Stage(name) for name in reversed(codings)]
        self._last = len(self._stages) - 1
        self._rooms = [_PIECE_BYTES if max_bytes is None else max_bytes for _ in codings]
        self._bounded = max_bytes is not None
        self.full = False

    def decode(self, data: bytes) -> bytes:
        """Take in the next bytes of the body and return all that comes out, maybe nothing.

        Raises:
            FetchError: `INVALID_ENCODING`, the bytes are not what the coding says.
        """
        return b"".join(self.pieces(data))

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Take in the next bytes and give what comes out of them, at most 64 KiB at a time."""
        self._stages[0].feed(data)
        yield from self._rest()

    def finish(self) -> Iterator[bytes]:
        """Say that the body has ended, not `full`, and give what only that lets out.

        Raises:
            FetchError: `INVALID_ENCODING`, a coding has not: something is missing.
        """
        for stage in self._stages:
            stage.decide()
            yield from self._rest()
            if not self.full and not stage.has_ended():
                if not stage.shows_itself():
                    raise _invalid(f"a broken {stage.name} coding (it ends too early)")
                yield from self._rest()

    def _rest(self) -> Iterator[bytes]:
        while not self.full and (piece := self._pull(self._last)):
            yield piece

    def _pull(self, position: int) -> bytes:
        stage = self._stages[position]
        while not self.full:
            output = stage.read(min(_PIECE_BYTES, self._rooms[position]))
            if output:
                if self._bounded:
                    self._rooms[position] -= len(output)
                    self.full = not self._rooms[position]
                return output
            more = self._pull(position - 1) if position else b""
            if not more:
                return b""
            stage.feed(more)
        return b""


def _agree(data: bytes, magics: tuple[bytes, ...]) -> bool:
    """Whether `data` begins with one of `magics`, or is the beginning of one."""
    return any(data.startswith(magic) or magic.startswith(data) for magic in magics)


def _has_no_controls(data: bytes) -> bool:
    return len(data.translate(None, _NOT_IN_TEXT)) == len(data)


def _reads_as_text(data: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return False
    return _has_no_controls(data)


def _codec(name: str) -> _Codec:
    try:
        return _CODECS[name]()
    except ImportError:
        raise _invalid(
            f"the coding {name!r}, for which {_OPTIONAL[name]} is not installed"
        ) from None


def _invalid(what: str) -> FetchError:
    return FetchError(
        f"The body has {what}.",
        code=Code.INVALID_ENCODING,
        remediation="The server is broken or was not listening; trying again may help.",
    )
