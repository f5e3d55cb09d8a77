"""How many CPUs this process may use."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

_CGROUP_2: Final = Path("/sys/fs/cgroup/cpu.max")
_CGROUP_1: Final = Path("/sys/fs/cgroup/cpu")


def usable_cpus() -> int:
    """Return how many CPUs this process may use, at least 1.

    Those of its affinity, within the quota of its cgroup (Linux). A container that may use 2 of 64
    CPUs has 2, where `os.cpu_count()` returns 64.
    """
    allowed = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    quota = _quota()
    return allowed if quota == math.inf else max(1, min(allowed, math.ceil(quota)))


def _quota() -> float:
    """Return the CPUs that the cgroup allows; math.inf without a quota."""
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = _CGROUP_2.read_text("ascii").split()
        return math.inf if quota == "max" else int(quota) / int(period)
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota = int((_CGROUP_1 / "cpu.cfs_quota_us").read_text("ascii"))
        period = int((_CGROUP_1 / "cpu.cfs_period_us").read_text("ascii"))
        return quota / period if quota > 0 else math.inf
    return math.inf
