"""The holder of a stored operation: machine, process, and a token of the server.

On the same machine, another server can detect that a holder has died, and then does not wait for
the end of its lease.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from functools import cache
from pathlib import Path


@cache
def _this_machine() -> str:
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    return ""


def _started_at(pid: int) -> str:
    """Return when a process started, in ticks since boot; empty if there is none."""
    with suppress(OSError, IndexError):
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace")
        state, *rest = text.rpartition(")")[2].split()
        return "" if state == "Z" else rest[18]
    return ""


def new_holder() -> str:
    """Return a name for a server of this process."""
    pid = os.getpid()
    return f"{_this_machine()}|{pid}|{_started_at(pid)}|{secrets.token_hex(8)}"


def has_died(holder: str) -> bool:
    """Whether the process of a holder is known to have ended. False if this is unknown."""
    machine, _, rest = holder.partition("|")
    pid, _, rest = rest.partition("|")
    started, _, _ = rest.partition("|")
    if not machine or machine != _this_machine() or not pid.isdigit() or not started:
        return False
    return _started_at(int(pid)) != started
