"""Decodes bodies with a size limit, so that a small body cannot become a large one.

This is the only place that decodes: every body that leaves the engine is decoded.

Servers mislabel bodies. An unknown coding is ignored, and a body that is not in its declared
coding is returned unchanged if it is readable as text.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence

from trio_tools.http.wire.codecs import Plain, codec, invalid_body

MAX_ENCODINGS = 3
_PIECE_BYTES = 65_536
# Number of first bytes that are compared with the declared coding.
_LOOK_AT_BYTES = 16
_LEAST_TEXT_BYTES = 2  # a single byte is not evidence
_NOT_IN_TEXT = bytes(set(range(32)) - set(b"\t\n\f\r")) + b"\x7f"


class _Stage:
    """One codec, and the check whether the body is in its coding at all."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._codec = codec(name)
        # The first bytes, until there are enough of them for the check; None after it.
        self._undecided: bytes | None = b""
        # All input while there is no output: the body may still be returned unchanged.
        self._fruitless: bytes | None = b""

    def feed(self, data: bytes) -> None:
        if self._undecided is None:
            self._let_in(data)
            return
        self._undecided += data
        if len(self._undecided) >= _LOOK_AT_BYTES:
            self.decide()

    def decide(self) -> None:
        """Check from the first bytes whether they may be in the coding, and start decoding."""
        start, self._undecided = self._undecided, None
        if start is None:
            return
        magics = self._codec.magics
        if magics:
            text = not _agree(start, magics) and _has_no_controls(start)
        else:
            text = len(start) >= _LOOK_AT_BYTES and _reads_as_text(start)
        if text:
            self._codec, self._fruitless = Plain(), None
        self._let_in(start)

    def read(self, room: int) -> bytes:
        try:
            output = self._codec.read(room)
        except self._codec.errors as exc:
            if not self.shows_itself():
                raise invalid_body(f"a broken {self.name} coding ({exc})") from exc
            output = self._codec.read(room)
        if output:
            self._fruitless = None
        return output

    def has_ended(self) -> bool:
        return self._codec.has_ended()

    def shows_itself(self) -> bool:
        """Whether to return the input unchanged from now on: no output so far, and it is text."""
        start, self._fruitless = self._fruitless, None
        if start is None or len(start) < _LEAST_TEXT_BYTES or not _reads_as_text(start):
            return False
        if _agree(start, self._codec.magics):
            return False  # the beginning of its declared coding
        self._codec = Plain()
        self._codec.feed(start)
        return True

    def _let_in(self, data: bytes) -> None:
        self._codec.feed(data)
        if self._fruitless is not None:
            some = len(self._fruitless) <= _PIECE_BYTES
            self._fruitless = self._fruitless + data if some else None


class BodyDecoder:
    """Decodes the codings of a body, up to `max_bytes` of output.

    Args:
        codings: In the order in which they were applied; see `content_encodings`.
        max_bytes: Limit of output bytes in total, and between two codings; None for no bound.

    Attributes:
        full: Whether the limit was reached; further output is dropped.

    Raises:
        FetchError: `INVALID_ENCODING` if there are more than three, or a library is missing.
    """

    def __init__(self, codings: Sequence[str], max_bytes: int | None) -> None:
        if len(codings) > MAX_ENCODINGS:
            raise invalid_body(f"{len(codings)} codings, more than {MAX_ENCODINGS}")
        self._stages = [_Stage(name) for name in reversed(codings)]
        self._last = len(self._stages) - 1
        self._rooms = [_PIECE_BYTES if max_bytes is None else max_bytes for _ in codings]
        self._bounded = max_bytes is not None
        self.full = False

    def decode(self, data: bytes) -> bytes:
        """Add the next bytes of the body and return the output, which may be empty.

        Raises:
            FetchError: `INVALID_ENCODING` if the bytes are not in the coding.
        """
        return b"".join(self.pieces(data))

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Add the next bytes and yield the output, at most 64 KiB at a time."""
        self._stages[0].feed(data)
        yield from self._rest()

    def finish(self) -> Iterator[bytes]:
        """Process the end of a body that is not `full`, and yield the remaining output.

        Raises:
            FetchError: `INVALID_ENCODING` if a coding is incomplete.
        """
        for stage in self._stages:
            stage.decide()
            yield from self._rest()
            if not self.full and not stage.has_ended():
                if not stage.shows_itself():
                    raise invalid_body(f"a broken {stage.name} coding (it ends too early)")
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
    """Whether `data` begins with one of `magics`, or is a prefix of one."""
    return any(data.startswith(magic) or magic.startswith(data) for magic in magics)


def _has_no_controls(data: bytes) -> bool:
    return len(data.translate(None, _NOT_IN_TEXT)) == len(data)


def _reads_as_text(data: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return False
    return _has_no_controls(data)
