"""What runs in a worker process: its start, and one job after another.

Everything here runs in the child, but for `start_interpreters_safely`.
"""

from __future__ import annotations

import importlib
import math
import os
import pickle
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from nursery_patterns._arguments import name_of
from nursery_patterns._errors import WorkerCrashed

# Whether a job ran out of memory. What it left on the heap would be missing in the next job.
_out_of_memory = False


def start_interpreters_safely() -> None:
    """Make multiprocessing start interpreters that import nothing from the working directory.

    It starts them as `python -c ...`, which puts the working directory first in `sys.path` until
    the child has taken over the path of its parent. A file `socket.py` there would be run. There is
    no option for it; the one function that gives the flags of the parent to spawned children and
    to the resource tracker is made to add `-P`. A child has its parent's path soon afterwards, so
    other users of multiprocessing in this program see no difference.

    With a Python that has no such function the flag is set in the environment instead, where all
    children of this program inherit it.
    """
    util: Any = importlib.import_module("multiprocessing.util")
    flags: Callable[[], list[str]] | None = getattr(util, "_args_from_interpreter_flags", None)
    if flags is None:
        os.environ["PYTHONSAFEPATH"] = "1"
    elif not {"-P", "-I"} & {*flags()}:
        util._args_from_interpreter_flags = lambda: [*flags(), "-P"]  # noqa: SLF001


def prepare(max_memory_bytes: int | None) -> None:
    """Prepare this process for its first job."""
    os.environ["PYTHONSAFEPATH"] = "1"  # also for what a job starts
    if max_memory_bytes is not None:
        import resource  # noqa: PLC0415 - POSIX has it, and Windows has no such bounds

        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        if most != resource.RLIM_INFINITY:
            max_memory_bytes = min(max_memory_bytes, most)
        resource.setrlimit(resource.RLIMIT_DATA, (max_memory_bytes, max_memory_bytes))
    _end_with_parent()


def run_job(job: bytes, max_cpu_seconds: float | None) -> object:
    """Run a pickled call."""
    fn, args = pickle.loads(job)  # noqa: S301 - from our own parent
    try:
        with _cpu_limit(max_cpu_seconds):
            return fn(*args)
    except (SystemExit, KeyboardInterrupt, GeneratorExit) as error:
        # They are meant to end a program, which is not the one that called.
        raise WorkerCrashed(_ended_by(fn, error)) from None
    except MemoryError as error:
        global _out_of_memory  # noqa: PLW0603 - a process has one memory
        _out_of_memory = True
        if error.args:
            raise
        bound = _told_bound()
        raise MemoryError(f"{name_of(fn)} ran out of the memory of its worker{bound}") from None


def _told_bound() -> str:
    import resource  # noqa: PLC0415 - POSIX has it

    most, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return "" if most == resource.RLIM_INFINITY else f" ({most:,} bytes at most)"


def is_spent() -> bool:
    """Whether this process has to make way for a new one."""
    return _out_of_memory


def _ended_by(fn: object, error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"{name_of(fn)} called sys.exit({error.code!r})"
    return f"{name_of(fn)} raised {error!r}"


@contextmanager
def _cpu_limit(seconds: float | None) -> Generator[None]:
    """Have the kernel end this process with SIGXCPU when the block has computed for too long."""
    if seconds is None or math.isinf(seconds):
        yield
        return
    import resource  # noqa: PLC0415 - POSIX has it

    usage = resource.getrusage(resource.RUSAGE_SELF)
    soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
    until = math.ceil(usage.ru_utime + usage.ru_stime + seconds)
    if hard != resource.RLIM_INFINITY:
        until = min(until, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (until, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def _end_with_parent() -> None:
    """Watch the parent from a thread; the main thread may be busy with a call."""
    from multiprocessing import parent_process  # noqa: PLC0415 - only workers need it

    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="watch parent", daemon=True).start()
