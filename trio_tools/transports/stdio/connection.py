"""The link between two byte streams and the SDK: reading, writing, unanswered requests.

Requests are read while the unanswered ones weigh less than a bound. So reading does not depend on
any tool, and memory does not depend on the client.
"""

from __future__ import annotations

import codecs
import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Final, Self

import trio
from mcp.shared.dispatcher import coerce_request_id
from mcp.shared.message import ServerMessageMetadata, SessionMessage
from mcp_types import (
    INVALID_REQUEST,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCRequest,
    JSONRPCResponse,
    RequestId,
)

from trio_tools.settings.logs import FIELDS
from trio_tools.transports.requests import SHUTTING_DOWN
from trio_tools.transports.stdio.descriptors import CHUNK_BYTES
from trio_tools.transports.stdio.jsonrpc_lines import LineFramer, Refusal, decode, encode, too_long

REQUEST_BYTES: Final = 16 * 2**10
"""Weight of an unanswered request beside its own length: a task and its frames."""

MAX_UNANSWERED_BYTES: Final = 64 * 2**20
"""Weight of unanswered requests above which reading pauses: 4,096 small ones."""

OUTBOX_MESSAGES: Final = 64
"""Limit of messages that wait for a slow client; then their senders wait."""

REFUSAL_BYTES: Final = 2**10
"""Weight of a refusal that could not be sent yet."""

_log = logging.getLogger("trio_tools")


class StdioConnection:
    """One client on a pair of byte streams.

    Run `read` and `write` as two tasks beside the SDK, which receives `inlet` and `outlet`.

    Args:
        reading: The input with the client's lines.
        writing: The output for our lines.
        stop: Requested at the end of input, and when the client closes our output.
        done: Called with the weight of each completed request, in bytes.
    """

    def __init__(
        self,
        reading: trio.abc.ReceiveStream,
        writing: trio.abc.SendStream,
        stop: Callable[[str], None],
        done: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._reading = reading
        self._writing = writing
        self._stop = stop
        self._done = done
        self._intake = trio.CancelScope()
        # Set once the server stops: later requests are refused.
        self.closing = False
        # Nothing was read yet: a byte order mark is skipped.
        self._first = True
        # Refusals that did not fit into the outbox. The reader must not wait for that, since its
        # next message may be a cancel. The writer, which runs while the outbox is full, sends
        # them too.
        self._refused: deque[bytes] = deque()
        # Invariant: _load is the sum of the weights in _unanswered and _refused, in bytes.
        # _settled wakes tasks that wait for it to fall.
        self._unanswered: dict[RequestId, int] = {}
        self._load = 0
        self._settled = trio.lowlevel.ParkingLot()
        # No buffer: a message is read when the previous one is dispatched.
        self._into_inlet, self.inlet = trio.open_memory_channel[SessionMessage](0)
        self._into_outbox, self._outbox = trio.open_memory_channel[bytes](OUTBOX_MESSAGES)
        self.outlet = Outlet(self._into_outbox, self._settle)

    async def read(self) -> None:
        """Read until `end_input`. The end of the client's input requests the stop before that."""
        async with self._into_inlet:
            with self._intake:
                framer = LineFramer()
                with suppress(trio.BrokenResourceError):  # the client's side crashed
                    async for chunk in self._reading:
                        for line in framer.feed(bytes(chunk)):
                            await self._take(line, framer)
                for line in framer.close():
                    await self._take(line, framer)
                self._stop("end of input")
                # The SDK cancels running calls when its input ends; the grace period comes first.
                await trio.sleep_forever()

    def end_input(self) -> None:
        """Stop reading, and let the SDK detect the end of its input."""
        self._intake.cancel()

    async def write(self) -> None:
        """Write messages of `outlet` until it is closed, or the client closes its side."""
        try:
            async with self._outbox:
                async for line in self._outbox:
                    lines = bytearray(line)
                    with suppress(trio.WouldBlock, trio.EndOfChannel):
                        while len(lines) < CHUNK_BYTES:
                            lines += self._outbox.receive_nowait()
                    while self._refused:
                        lines += self._refused.popleft()
                        self._lighten(REFUSAL_BYTES)
                    await self._writing.send_all(lines)
        except trio.BrokenResourceError:
            self._stop("the client closed our output")

    async def answered(self) -> None:
        """Wait until every request was answered or has ended without an answer."""
        while self._unanswered:
            await self._settled.park()

    async def _take(self, line: bytes | None, framer: LineFramer) -> None:
        if line is not None and self._first:
            line = line.removeprefix(codecs.BOM_UTF8)
        self._first = False
        message = too_long(framer.skipped) if line is None else await decode(line)
        if isinstance(message, JSONRPCRequest):
            message = self._refuse_request(message) or message
        if message is None:
            return
        if isinstance(message, Refusal):
            fields = {"code": message.code, "peer": "stdio"}
            _log.warning("refused a message: %s", message.reason, extra={FIELDS: fields})
            if message.reply_owed:
                await self._refuse(message)
        elif isinstance(message, JSONRPCRequest):
            await self._room_for_more()
            weight = len(line or b"") + REQUEST_BYTES
            self._unanswered[coerce_request_id(message.id)] = weight
            self._load += weight
            settle = partial(self._settle_cancelled, message.id)
            metadata = ServerMessageMetadata(on_request_unanswered=settle)
            await self._into_inlet.send(SessionMessage(message, metadata))
        else:
            await self._into_inlet.send(SessionMessage(message))

    async def _refuse(self, refusal: Refusal) -> None:
        """Answer an invalid message, without waiting for the client to read."""
        await self._room_for_more()
        line = encode(refusal.reply())
        try:
            self._into_outbox.send_nowait(line)
        except trio.WouldBlock:
            self._refused.append(line)
            self._load += REFUSAL_BYTES
        except trio.BrokenResourceError:
            pass  # the client has closed its side

    async def _room_for_more(self) -> None:
        while self._load >= MAX_UNANSWERED_BYTES:
            await self._settled.park()

    def _refuse_request(self, request: JSONRPCRequest) -> Refusal | None:
        if self.closing:
            return Refusal(SHUTTING_DOWN, "The server is shutting down.", request.id)
        if coerce_request_id(request.id) in self._unanswered:
            reason = "A request with this id still waits for its answer: give each its own id."
            return Refusal(INVALID_REQUEST, reason, request.id)
        return None

    def _settle(self, request_id: RequestId | None) -> None:
        if request_id is not None:
            self._lighten(self._unanswered.pop(coerce_request_id(request_id), 0))

    def _lighten(self, weight: int) -> None:
        self._load -= weight
        self._done(weight)
        self._settled.unpark_all()

    async def _settle_cancelled(self, request_id: RequestId) -> None:
        self._settle(request_id)


class Outlet:
    """The stream to which the SDK writes its messages: its `WriteStream`.

    Args:
        into_outbox: Accepts lines. Senders wait here for a slow client.
        settle: Called with the id of each answered request.
    """

    def __init__(
        self,
        into_outbox: trio.MemorySendChannel[bytes],
        settle: Callable[[RequestId | None], None],
    ) -> None:
        self._into_outbox = into_outbox
        self._settle = settle

    async def send(self, item: SessionMessage, /) -> None:
        """Send one message; wait while the outbox is full. A cancelled send sends nothing.

        If the client has closed its side, the message is dropped.
        """
        message: JSONRPCMessage = item.message
        try:
            await self._into_outbox.send(encode(message))
        except trio.BrokenResourceError:
            _log.debug("dropped a message: the client has closed its side")
        finally:
            if isinstance(message, JSONRPCResponse | JSONRPCError):
                self._settle(message.id)

    async def aclose(self) -> None:
        """Send nothing more. Messages in the outbox are still written."""
        await self._into_outbox.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self.aclose()
