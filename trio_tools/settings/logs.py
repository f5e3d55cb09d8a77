"""Logging for the command line: to stderr, one line a record, with the request in each of them.

Embedding applications configure their own logging; `nursery_patterns.RequestLogFilter` adds the
request id, client id and elapsed seconds to whatever handler they attach it to.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Literal

from nursery_patterns import RequestLogFilter

_TEXT = (
    "%(asctime)s %(levelname)s %(name)s [%(request_id)s %(client_id)s %(elapsed).3fs] %(message)s"
)

# What would end a line, so that a caller could write the next one, or steer a terminal.
_CONTROLS = {code: repr(chr(code))[1:-1] for code in (*range(32), *range(127, 160), 0x2028, 0x2029)}


class TextFormatter(logging.Formatter):
    """One line a record, whatever its message quotes; a traceback follows on lines of its own."""

    def __init__(self) -> None:
        super().__init__(_TEXT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the line, without what a traceback adds."""
        return super().formatMessage(record).translate(_CONTROLS)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, request_id, client_id, elapsed."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line; a traceback goes into `exception`."""
        entry = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": getattr(record, "request_id", "-"),
            "client_id": getattr(record, "client_id", "-"),
            "elapsed": getattr(record, "elapsed", 0.0),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def configure_logging(log_format: Literal["text", "json"], level: str) -> None:
    """Send the records of the whole process to stderr, replacing what was configured before.

    Warnings of Python code become records too.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(RequestLogFilter())
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    # What they say about each request is for their own debugging, and quotes requests and answers.
    for name in ("mcp", "sse_starlette"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
