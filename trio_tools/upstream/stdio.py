"""MCP messages as lines over the pipes of a program.

The SDK's own transport has two tasks and two channels beside its pipes. This one reads in the
task that dispatches and writes in the task that sends, and it bounds the bytes that it reads.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import trio
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCNotification, jsonrpc_message_adapter

from trio_tools.upstream.child import Child, start_child
from trio_tools.upstream.launch import Program
from trio_tools.upstream.messages import (
    Closable,
    Link,
    id_in,
    mark_sent,
    too_large,
    without_bad_tools,
    without_progress,
    without_question,
)

_CHUNK: Final = 65_536
_EDGE: Final = 1_000
_SHOWN_CHARS: Final = 200
# Messages that are parsed in one step of the event loop.
_PER_STEP: Final = 20
# Unlimited output on stderr costs only the reading.
_UNHEARD: Final = b'"notifications/message"'
# Seconds that a cancel waits for a peer that does not read its input.
_CANCEL_SECONDS: Final = 0.04


@asynccontextmanager
async def over_stdio(
    program: Program, link: Link, *, most: int
) -> AsyncGenerator[tuple[LineReader, LineWriter]]:
    """Start a program and yield the two ends that an MCP client takes; end it with the block.

    Args:
        program: The program to start.
        link: Receives the state of the transport.
        most: Limit of bytes of one message from it.

    Raises:
        UpstreamFailed: It cannot be started.
    """
    child = await start_child(program)
    link.pid, link.last_words = child.pid, child.last_words
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child.read_stderr)
            writer = LineWriter(child, link)
            nursery.start_soon(writer.finish_lines)
            try:
                yield LineReader(child, link, most), writer
            finally:
                await child.stop()
                link.exit_status = child.exit_status
                nursery.cancel_scope.cancel(reason="the upstream has ended")
    finally:
        link.lost.set()


class LineReader(Closable):
    """The output of the program as messages. Other lines are counted and skipped."""

    def __init__(self, child: Child, link: Link, most: int) -> None:
        self._stdout = child.stdout
        self._link = link
        self._most = most
        self._lines: deque[bytes] = deque()
        # The beginning of an incomplete line; of a line above the limit, its beginning and its
        # end.
        self._rest = bytearray()
        self._head: bytes | None = None
        self._in_step = 0

    def __aiter__(self) -> LineReader:
        return self

    async def receive(self) -> SessionMessage:
        """Return the next message."""
        return await anext(self)

    async def __anext__(self) -> SessionMessage:
        while True:
            while self._lines:
                message = self._message(self._lines.popleft())
                self._in_step += 1
                if self._in_step >= _PER_STEP:
                    self._in_step = 0
                    await trio.lowlevel.checkpoint()
                if message is not None:
                    return message
            try:
                chunk = await self._stdout.receive_some(_CHUNK)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                chunk = b""
            if not chunk:
                self._link.lost.set()
                raise StopAsyncIteration
            self._take(chunk)

    def _take(self, chunk: bytes | bytearray) -> None:
        *lines, rest = chunk.split(b"\n")
        if lines:
            first = lines[0]
            if self._head is not None:
                self._end_large(first)
                lines = lines[1:]
            elif self._rest:
                lines[0] = bytes(self._rest + first)
                self._rest.clear()
            self._lines.extend(bytes(line) for line in lines)
        self._rest += rest
        if len(self._rest) > self._most or (self._head is not None and len(self._rest) > _CHUNK):
            if self._head is None:
                self._head = bytes(self._rest[:_EDGE])
            del self._rest[:-_EDGE]

    def _end_large(self, end: bytes | bytearray) -> None:
        assert self._head is not None
        request_id = id_in(self._head, bytes(self._rest + end)[-_EDGE:])
        self._head = None
        self._rest.clear()
        if request_id is None:
            self._link.trouble(f"a message of more than {self._most:,} bytes was not read")
        else:
            self._lines.append(too_large_line(request_id, self._most))

    def _message(self, line: bytes) -> SessionMessage | None:
        if not line or line.isspace() or _UNHEARD in line[:300]:
            return None
        try:
            message = jsonrpc_message_adapter.validate_json(line, by_name=False)
        except ValueError:
            shown = line[:_SHOWN_CHARS].decode(errors="replace").strip()
            self._link.trouble(f"it printed a line to stdout that is not a message: {shown!r}")
            return None
        item = without_progress(SessionMessage(message), self._link)
        if item is None:
            return None
        return without_question(without_bad_tools(item, self._link.left_out))


def too_large_line(request_id: int, most: int) -> bytes:
    """Return the line that replaces an answer that is not read."""
    message = too_large(request_id, most).message
    return message.model_dump_json(by_alias=True, exclude_none=True).encode()


class LineWriter(Closable):
    """The input of the program. A line that was begun is completed, also after a cancel."""

    def __init__(self, child: Child, link: Link) -> None:
        self._stdin = child.stdin
        self._link = link
        # The part of a line that is not written yet; later writers wait. At most one line.
        self._rest = b""
        self._blocked = trio.Event()
        self._free = trio.Event()
        self._free.set()

    async def send(self, item: SessionMessage) -> None:
        """Write one message. Returns when it is queued; does not raise if it is not read."""
        text = item.message.model_dump_json(by_alias=True, exclude_unset=True)
        if not self._free.is_set():
            notice = isinstance(item.message, JSONRPCNotification)
            # Cancels are sent by tasks that are ending, and must not delay them.
            with trio.move_on_after(_CANCEL_SECONDS if notice else float("inf")):
                while not self._free.is_set():
                    await self._free.wait()
            if not self._free.is_set():
                return
        self._write(f"{text}\n".encode(), item)

    def _write(self, data: bytes, item: SessionMessage) -> None:
        try:
            written = os.write(self._stdin.fileno(), data)
        except BlockingIOError:
            written = 0
        except (OSError, trio.ClosedResourceError):  # its reader has ended
            self._link.lost.set()
            return
        mark_sent(item)
        if written < len(data):
            self._rest = data[written:]
            self._free = trio.Event()
            self._blocked.set()

    async def finish_lines(self) -> None:
        """Write the rest of a line that did not fit into the pipe, while the program runs."""
        while True:
            await self._blocked.wait()
            self._blocked = trio.Event()
            try:
                await self._stdin.send_all(self._rest)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._link.lost.set()
                return
            finally:
                self._rest = b""
                self._free.set()
