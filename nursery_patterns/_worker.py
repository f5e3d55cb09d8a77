"""The code that runs in a worker process: its start, and one job after another.

A worker imports this module and the modules of its jobs. Nothing here imports trio, so a worker
starts fast. The parent calls `patch_multiprocessing` and `main_module`; the rest runs in the
worker.
"""

from __future__ import annotations

import importlib
import io
import math
import os
import pickle
import textwrap
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from nursery_patterns._errors import WorkerCrashed

# In the parent: whether the process that is starting now is a worker of `run_in_process`.
starting_worker: ContextVar[bool] = ContextVar("nursery_patterns starting_worker", default=False)

# How multiprocessing names the main module in what it sends to a new process.
_MAIN_KEYS = ("init_main_from_name", "init_main_from_path")

# In a worker: the main module of the program, by one of these keys, until it has been imported.
_main: dict[str, Any] = {}

# In a worker: whether a job left a state that would affect the next one, such as a full heap.
_spent = False


def patch_multiprocessing() -> None:
    """Make multiprocessing start workers that import only the modules of their jobs."""
    _start_interpreters_safely()
    _leave_main_module_out()


def _leave_main_module_out() -> None:
    """Have workers of `run_in_process` import the main module when a job needs it, or never.

    By default a new process imports it first. A program without `if __name__ == "__main__":`
    would then run again in each worker. Multiprocessing has no option for this, so the function
    that collects the data for a new process is wrapped to omit the main module. Other processes
    of this program get all the data.
    """
    spawn: Any = importlib.import_module("multiprocessing.spawn")
    original: Callable[[str], dict[str, Any]] = spawn.get_preparation_data
    if getattr(original, "__module__", None) == __name__:
        return

    def get_preparation_data(name: str) -> dict[str, Any]:
        told = original(name)
        left_out = _MAIN_KEYS if starting_worker.get() else ()
        return {key: value for key, value in told.items() if key not in left_out}

    spawn.get_preparation_data = get_preparation_data


def main_module() -> dict[str, Any]:
    """Return how a worker can import the main module of this program, for `prepare`.

    Raises:
        RuntimeError: This process is a worker that imports its main module at this moment. The
            message is that of multiprocessing.
    """
    from multiprocessing import spawn  # noqa: PLC0415 - most programs start no process

    told = spawn.get_preparation_data("")
    return {key: told[key] for key in _MAIN_KEYS if key in told}


def _start_interpreters_safely() -> None:
    """Make multiprocessing start interpreters that import nothing from the working directory.

    It starts them as `python -c ...`, which puts the working directory first in `sys.path` until
    the child has received the path of its parent. A file `socket.py` there would run. There is no
    option against it, so the function that returns the interpreter flags for spawned children and
    for the resource tracker is wrapped to add `-P`. A child receives its parent's path soon
    afterwards, so other users of multiprocessing in this program see no difference.

    If Python has no such function, the flag is set in the environment, which all children of this
    program inherit.
    """
    util: Any = importlib.import_module("multiprocessing.util")
    flags: Callable[[], list[str]] | None = getattr(util, "_args_from_interpreter_flags", None)
    if flags is None:
        os.environ["PYTHONSAFEPATH"] = "1"
    elif not {"-P", "-I"} & {*flags()}:
        util._args_from_interpreter_flags = lambda: [*flags(), "-P"]  # noqa: SLF001


def prepare(max_memory_bytes: int | None, main: dict[str, Any]) -> None:
    """Prepare this process for its first job."""
    _main.update(main)
    os.environ["PYTHONSAFEPATH"] = "1"  # also for what a job starts
    if max_memory_bytes is not None:
        import resource  # noqa: PLC0415 - POSIX has it, and Windows has no such bounds

        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        if most != resource.RLIM_INFINITY:
            max_memory_bytes = min(max_memory_bytes, most)
        resource.setrlimit(resource.RLIMIT_DATA, (max_memory_bytes, max_memory_bytes))
    _end_with_parent()


def run_job(job: bytes, name: str, max_cpu_seconds: float | None) -> object:
    """Run a pickled call of the named function."""
    try:
        fn, args = _JobUnpickler(io.BytesIO(job)).load()
        with _cpu_limit(max_cpu_seconds):
            return fn(*args)
    except (SystemExit, KeyboardInterrupt, GeneratorExit) as error:
        # They would end this process, but an exception of the function is the failure of its call
        # only.
        raise WorkerCrashed(_ended_by(name, error)) from None
    except MemoryError as error:
        global _spent  # noqa: PLW0603 - a process has one memory
        _spent = True
        if error.args:
            raise
        bound = _told_bound()
        raise MemoryError(f"{name} ran out of the memory of its worker{bound}") from None


class _JobUnpickler(pickle.Unpickler):  # noqa: S301 - from our own parent
    """Imports the main module of the program if a job uses a name that is defined there."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if module_name in {"__main__", "__mp_main__"} and _main:
            _import_main_module(global_name)
        return super().find_class(module_name, global_name)


def _import_main_module(wanted: str) -> None:
    """Import it under the name `__mp_main__`, as multiprocessing does in a new process."""
    from multiprocessing import process, spawn  # noqa: PLC0415 - the parent has no use for them

    this: Any = process.current_process()
    # To multiprocessing, this process is still being started: it refuses to start another one
    # from here, which would import the main module again, and so on without end.
    this._inheriting = True  # noqa: SLF001
    try:
        spawn.prepare(_main)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - it is the caller's to see
        global _spent  # noqa: PLW0603 - of this process
        _spent = True
        path = next(iter(_main.values()))
        reason = textwrap.shorten(str(error), 100, placeholder=" ...")
        raise WorkerCrashed(
            f"{wanted} is defined in the main module, {path}, which could not be imported in a "
            f"worker process: {type(error).__name__}: {reason}. Move {wanted} into a module of its "
            'own, or put what the main module does under if __name__ == "__main__":'
        ) from None
    finally:
        del this._inheriting  # noqa: SLF001
    _main.clear()


def _told_bound() -> str:
    import resource  # noqa: PLC0415 - POSIX has it

    most, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return "" if most == resource.RLIM_INFINITY else f" ({most:,} bytes at most)"


def is_spent() -> bool:
    """Whether this process must be replaced by a new one."""
    return _spent


def _ended_by(name: str, error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"{name} called sys.exit({error.code!r})"
    return f"{name} raised {error!r}"


@contextmanager
def _cpu_limit(seconds: float | None) -> Generator[None]:
    """Let the kernel end this process with SIGXCPU when the block has used too much CPU time."""
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
