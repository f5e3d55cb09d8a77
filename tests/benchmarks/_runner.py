"""Measuring code that benchmarks share: one process per measurement, medians, a verdict."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Cost:
    """What a piece of work took: CPU seconds, and bytes of memory at its peak above idle."""

    cpu_seconds: float
    peak_bytes: int


def measure(work: Callable[[], object]) -> Cost:
    """Do the work in this process, which has imported everything it needs."""
    _CLEAR.write_text("5")  # forget the peak so far
    idle = _resident("VmRSS")
    started = time.process_time()
    work()
    cpu_seconds = time.process_time() - started
    return Cost(cpu_seconds, _resident("VmHWM") - idle)


def _resident(field: str) -> int:
    # Not ru_maxrss, which a child process begins with its parent's.
    for line in _STATUS.read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def measure_in_new_process(module: str, *arguments: object) -> Cost:
    """Run `python -m module arguments`, which prints a cost with `print_cost`."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return Cost(**json.loads(done.stdout))


def print_cost(cost: Cost) -> None:
    print(json.dumps(asdict(cost)))


def medians(costs: Iterable[Cost]) -> Cost:
    """The median of each part of the costs by itself."""
    several = list(costs)
    return Cost(
        statistics.median(cost.cpu_seconds for cost in several),
        round(statistics.median(cost.peak_bytes for cost in several)),
    )


@dataclass(frozen=True)
class Verdict:
    """A figure beside the bound that it has to keep."""

    what: str
    measured: float
    bound: float
    unit: str = "x"

    @property
    def reached(self) -> bool:
        return self.measured <= self.bound

    def __str__(self) -> str:
        word = "reached" if self.reached else "MISSED"
        return f"{self.what:66} {self.measured:8.3f} <= {self.bound:6.3f} {self.unit:3} {word}"
