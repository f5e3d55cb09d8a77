"""Logging for the command line: to stderr, one line per record, each with its request.

A server formats a record in the task that logs it. A thread writes it: if the host does not read
standard error, the pipe fills up and a write blocks.

Embedding applications configure their own logging; `nursery_patterns.RequestLogFilter` adds the
request id, client id and elapsed seconds to the records of any handler.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import select
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Final, Literal, TextIO

from nursery_patterns import RequestLogFilter

_TEXT = (
    "%(asctime)s %(levelname)s %(name)s [%(request_id)s %(client_id)s %(elapsed).3fs] %(message)s"
)

QUEUED_RECORDS: Final = 1_000
"""Limit of records that wait for standard error to be read; further ones are dropped."""

FLUSH_SECONDS: Final = 0.3
"""How long the end of the process waits for standard error to be read."""

FIELDS: Final = "fields"
"""Attribute of a record with a table of further values: keys in JSON, `key=value` in text."""

# Characters that would end a line, so that a caller could forge the next one, or control a
# terminal.
_CONTROLS = {code: repr(chr(code))[1:-1] for code in (*range(32), *range(127, 160), 0x2028, 0x2029)}


class TextFormatter(logging.Formatter):
    """One line per record, even if its message has line breaks; tracebacks have more lines."""

    def __init__(self) -> None:
        super().__init__(_TEXT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the line, without the traceback."""
        fields = getattr(record, FIELDS, {})
        line = " ".join([super().formatMessage(record), *(f"{k}={v}" for k, v in fields.items())])
        return line.translate(_CONTROLS)


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, request_id, client_id, elapsed."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line; a traceback goes into `exception`."""
        entry = {
            "time": _time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": getattr(record, "request_id", "-"),
            "client_id": getattr(record, "client_id", "-"),
            "elapsed": getattr(record, "elapsed", 0.0),
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


class BackgroundHandler(logging.Handler):
    """Writes records in a thread, and drops them while its queue is full.

    When it can write again, it writes one line with the number of dropped records.

    Args:
        write: Writes a text. It may block for ever; the end of the process waits `FLUSH_SECONDS`.
        capacity: Limit of waiting records.

    Attributes:
        dropped_in_all: Records that were dropped since the start.
    """

    def __init__(self, write: Callable[[str], None], *, capacity: int = QUEUED_RECORDS) -> None:
        super().__init__()
        self._write = write
        self._lines: queue.Queue[str | None] = queue.Queue(capacity)
        self._dropped = 0
        self.dropped_in_all = 0
        self._thread = threading.Thread(target=self._write_lines, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the line of a record, or drop it. Never waits for the reader of the log."""
        try:
            self._lines.put_nowait(f"{self.format(record)}\n")
        except queue.Full:
            self._dropped += 1
            self.dropped_in_all += 1
        except Exception:  # noqa: BLE001 - what logging asks of every handler
            self.handleError(record)

    def close(self) -> None:
        """Write the waiting records, for at most `FLUSH_SECONDS`."""
        with suppress(queue.Full):
            self._lines.put(None, timeout=FLUSH_SECONDS)
            self._thread.join(FLUSH_SECONDS)
        super().close()

    def _write_lines(self) -> None:
        while (line := self._lines.get()) is not None:
            self._write(line)
            if self._dropped and self._lines.empty():
                # A record that is dropped between the two reads is reported the next time.
                dropped = self._dropped
                self._dropped -= dropped
                note = "records were dropped: standard error was not read in time"
                record = logging.makeLogRecord(
                    {
                        "name": "trio_tools",
                        "levelname": "WARNING",
                        "msg": f"{dropped} {note}",
                        "request_id": "-",
                        "client_id": "-",
                        "elapsed": 0.0,
                    }
                )
                self._write(f"{self.format(record)}\n")


def dropped_records() -> int:
    """Return how many records were dropped since the start, because stderr was not read."""
    handlers = logging.getLogger().handlers
    return sum(each.dropped_in_all for each in handlers if isinstance(each, BackgroundHandler))


def configure_logging(log_format: Literal["text", "json"], level: str) -> None:
    """Send the records of the whole process to stderr, replacing what was configured before.

    Warnings of Python code become records too.
    """
    _configure(logging.StreamHandler(sys.stderr), log_format, level)


def configure_server_logging(log_format: Literal["text", "json"], level: str) -> None:
    """Write in a thread, and drop records instead of waiting for a reader."""
    _configure(BackgroundHandler(_writer(sys.stderr)), log_format, level)


def _configure(handler: logging.Handler, log_format: str, level: str) -> None:
    handler.addFilter(RequestLogFilter())
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    # Their records about each request are for debugging, and quote requests and answers.
    for name in ("mcp", "sse_starlette"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))


def set_log_level(level: str) -> None:
    """Change the lowest level that is logged, as a reload does."""
    logging.getLogger().setLevel(level.upper())


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="milliseconds")


def _writer(stream: TextIO | None) -> Callable[[str], None]:
    """Return a function that writes to a stream without its lock.

    The interpreter takes that lock at its end, so a blocked write would block the exit.
    """
    if stream is None:  # a process without standard error
        return lambda _: None
    try:
        fd = stream.fileno()
    except OSError:  # it has no descriptor, as in tests

        def write_to_stream(text: str) -> None:
            with suppress(ValueError):  # it is closed
                stream.write(text)

        return write_to_stream

    def write(text: str) -> None:
        rest = text.encode(errors="backslashreplace")
        while rest:
            try:
                rest = rest[os.write(fd, rest) :]
            except BlockingIOError:  # another process that shares it set it
                select.select([], [fd], [])
            except OSError:  # its reader has gone
                return

    return write
