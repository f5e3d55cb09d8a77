"""A shortage of this machine or process; not the fault of a peer, a file or the caller."""

from __future__ import annotations

import errno
from typing import Final

from trio_tools.answers.errors import ServerOverloaded

SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
"""`OSError` numbers of a shortage: descriptors of the process or the system, memory, buffers."""

LOCAL_SHORTAGE: Final = "LOCAL_SHORTAGE"

_RETRY_SECONDS: Final = 1.0


def is_shortage(error: BaseException) -> bool:
    """Whether an error reports a shortage of this machine or process."""
    return isinstance(error, OSError) and error.errno in SHORTAGES


def local_shortage(reason: str) -> ServerOverloaded:
    """Return the failure for a shortage.

    Args:
        reason: The system's message, such as `Too many open files`.
    """
    return ServerOverloaded(
        f"This server itself is short of something ({reason}), so it did not try: call again in "
        f"{_RETRY_SECONDS:g} s, or ask for less at once.",
        error_code=LOCAL_SHORTAGE,
        remediation="Call again later; if it lasts, the operator raises the limit of open files "
        "(ulimit -n) or the memory.",
        data={"retry_after_seconds": _RETRY_SECONDS},
    )
