"""Blocking calls in threads and heavy ones in processes: what a cancel does, what outlives it."""

import contextvars
import functools
import logging
import math
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import trio
import trio.lowlevel

from nursery_patterns import (
    Limits,
    Overloaded,
    WorkerCrashed,
    abandoned_threads,
    current_default_process_limiter,
    current_default_thread_limiter,
    run_batch,
    run_in_process,
    run_in_thread,
)

ROOT = Path(__file__).parents[2]
SPIN = "while True: pass"

colour = contextvars.ContextVar("colour", default="grey")


def is_gone(pid):
    """Whether there is no such process, not even one that was not waited for."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def open_process_handle(pid):
    """A file that becomes readable when the process ends, be it a child of ours or not."""
    return os.fdopen(os.pidfd_open(pid), "rb", buffering=0)


# --- threads ----------------------------------------------------------------------------------


async def test_a_thread_returns_the_value_and_lets_the_loop_run_meanwhile():
    started, finish = trio.Event(), threading.Event()

    def work(left, right):
        trio.from_thread.run_sync(started.set)
        finish.wait()
        return left + right

    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _():
            await started.wait()
            finish.set()

        assert await run_in_thread(work, 2, 3) == 5


async def test_context_variables_carry_over_into_the_thread():
    colour.set("red")
    assert await run_in_thread(colour.get) == "red"


async def test_an_exception_in_a_thread_arrives_as_itself():
    with pytest.raises(ZeroDivisionError):
        await run_in_thread(lambda: 1 / 0)


async def test_offloaded_threads_leave_trios_own_threads_alone():
    release = threading.Event()
    limiter = current_default_thread_limiter()
    async with trio.open_nursery() as nursery:
        for _ in range(limiter.total_tokens + 5):
            nursery.start_soon(run_in_thread, release.wait)
        await trio.testing.wait_all_tasks_blocked()
        assert limiter.statistics().tasks_waiting == 5
        assert await trio.Path(__file__).exists()
        assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
        release.set()
    assert limiter.borrowed_tokens == 0


@pytest.mark.parametrize("run", [run_in_thread, run_in_process])
async def test_an_object_that_is_not_a_limiter_is_refused_with_the_right_call(run):
    with pytest.raises(TypeError) as caught:
        await run(len, "abc", limiter=3)
    assert str(caught.value) == (
        f"limiter must be a CapacityLimiter, got 3: write await {run.__name__}(fn, argument, "
        "limiter=trio.CapacityLimiter(3))"
    )


async def test_a_counted_limiter_is_a_limiter():
    limits = Limits({"work": 1})
    assert await run_in_thread(len, "abc", limiter=limits["work"]) == 3
    assert limits.snapshot()["work"].finished == 1


async def test_a_limiter_of_ones_own_bounds_the_threads():
    limiter = trio.CapacityLimiter(2)
    lock, running, peak = threading.Lock(), 0, 0

    def work():
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
        time.sleep(0.001)
        with lock:
            running -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(functools.partial(run_in_thread, work, limiter=limiter))
    assert peak == 2


async def test_an_abandoned_thread_lets_the_caller_go_and_keeps_its_place_until_it_ends():
    limiter = trio.CapacityLimiter(1)
    release, ended = threading.Event(), trio.Event()
    token = trio.lowlevel.current_trio_token()

    def work():
        release.wait()
        token.run_sync_soon(ended.set)

    with trio.move_on_after(0.01) as scope:
        await run_in_thread(work, limiter=limiter, abandon_on_cancel=True)
    assert scope.cancelled_caught
    assert limiter.borrowed_tokens == 1
    release.set()
    await ended.wait()
    async with limiter:
        pass


async def test_by_default_a_cancel_waits_for_the_thread():
    finished = threading.Event()
    with trio.move_on_after(0.01) as scope:
        await run_in_thread(lambda: (time.sleep(0.05), finished.set()))
    assert finished.is_set()
    assert not scope.cancelled_caught


async def test_a_thread_is_abandoned_only_after_it_had_the_time_that_it_was_given():
    limiter = trio.CapacityLimiter(1)
    release = threading.Event()
    with trio.move_on_after(0.01) as scope:
        await run_in_thread(release.wait, limiter=limiter, abandon_after=0.1)
    assert scope.cancelled_caught
    assert 0.1 <= trio.current_time() - scope.deadline < 2
    assert (limiter.borrowed_tokens, abandoned_threads()) == (1, 1)
    release.set()
    async with limiter:
        assert abandoned_threads() == 0


async def test_a_thread_that_notices_the_cancel_is_not_waited_for_any_longer():
    def work():
        while True:
            time.sleep(0.001)
            trio.from_thread.check_cancelled()

    limiter = trio.CapacityLimiter(1)
    with trio.fail_after(10), trio.move_on_after(0.01) as scope:
        await run_in_thread(work, limiter=limiter, abandon_after=60)
    assert scope.cancelled_caught
    assert (limiter.borrowed_tokens, abandoned_threads()) == (0, 0)


async def test_a_thread_that_has_no_place_yet_is_not_waited_for_at_all(autojump_clock):
    limiter = trio.CapacityLimiter(1)
    async with limiter:
        with trio.move_on_after(1) as scope:
            await run_in_thread(time.sleep, 0, limiter=limiter, abandon_after=60)
        assert trio.current_time() == scope.deadline
    assert (limiter.borrowed_tokens, abandoned_threads()) == (0, 0)


async def test_a_value_and_an_error_come_back_as_without_patience():
    assert await run_in_thread(int, "5", abandon_after=60) == 5
    with pytest.raises(ValueError, match="invalid literal"):
        await run_in_thread(int, "five", abandon_after=60)


@pytest.mark.parametrize("seconds", [-1, math.nan])
async def test_a_patience_that_is_none_is_refused(seconds):
    with pytest.raises(ValueError, match="abandon_after"):
        await run_in_thread(int, abandon_after=seconds)


def nested(depth):
    return functools.reduce(lambda inner, _: [inner], range(depth), [])


# --- processes --------------------------------------------------------------------------------


async def test_a_process_returns_the_value_and_is_reused_warm():
    first = await run_in_process(os.getpid)
    assert first != os.getpid()
    assert await run_in_process(os.getpid) == first
    assert await run_in_process(divmod, 7, 2) == (3, 1)


async def test_an_exception_in_a_process_arrives_as_itself_and_leaves_the_worker_warm():
    worker = await run_in_process(os.getpid)
    with pytest.raises(ValueError, match=r"^invalid literal for int\(\) with base 10: 'x'$"):
        await run_in_process(int, "x")
    with pytest.raises(Overloaded) as refusal:
        await run_in_process(
            exec, "from nursery_patterns import *; raise Overloaded('no', retry_after=2)"
        )
    assert refusal.value.retry_after == 2
    assert await run_in_process(os.getpid) == worker


async def test_a_cancel_kills_the_process_that_computes_and_the_next_call_gets_a_new_one():
    worker = await run_in_process(os.getpid)
    with trio.move_on_after(0.05) as scope:
        await run_in_process(exec, SPIN)
    assert scope.cancelled_caught
    assert is_gone(worker)
    assert await run_in_process(os.getpid) != worker


async def test_a_process_that_crashes_fails_that_call_alone():
    await run_in_process(os.getpid)
    outcomes = {}

    async def call(name, fn, *args):
        try:
            outcomes[name] = await run_in_process(fn, *args)
        except WorkerCrashed as crash:
            outcomes[name] = str(crash)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call, "killed", signal.raise_signal, signal.SIGKILL)
        nursery.start_soon(call, "fine", divmod, 7, 2)
    await call("left", os._exit, 3)
    assert outcomes["fine"] == (3, 1)
    assert outcomes["killed"].startswith(
        "the worker process was killed by SIGKILL while it ran raise_signal; other calls go on."
    )
    assert outcomes["left"].startswith("the worker process exited with status 3 while it ran _exit")
    assert current_default_process_limiter().borrowed_tokens == 0


async def test_a_process_that_died_of_a_signal_without_a_name_has_crashed_too():
    nameless = signal.SIGRTMIN + 3
    with pytest.raises(
        WorkerCrashed, match=rf"^the worker process was killed by signal {nameless} "
    ):
        await run_in_process(signal.raise_signal, nameless)


async def test_a_function_that_calls_exit_ends_its_call_and_not_the_program():
    with pytest.raises(WorkerCrashed, match=r"^exit called sys.exit\(4\)$"):
        await run_in_process(sys.exit, 4)


async def test_an_idle_worker_that_was_killed_from_outside_is_replaced_without_a_word():
    worker = await run_in_process(os.getpid)
    with open_process_handle(worker) as handle:
        os.kill(worker, signal.SIGKILL)
        await trio.lowlevel.wait_readable(handle)
    assert await run_in_process(os.getpid) != worker


def test_calls_that_wait_to_start_a_worker_take_one_that_becomes_free(monkeypatch):
    monkeypatch.setattr("nursery_patterns._worker_pool.usable_cpus", lambda: 1)
    workers = set()

    async def ask():
        workers.add(await run_in_process(os.getpid, limiter=trio.CapacityLimiter(1)))

    async def main():
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(ask)

    trio.run(main)
    # The second interpreter starts while the first one answers all others, one after another.
    assert len(workers) < 8


def test_a_cancel_during_the_start_of_a_worker_gives_the_turn_to_the_next_call(monkeypatch):
    monkeypatch.setattr("nursery_patterns._worker_pool.usable_cpus", lambda: 1)

    async def main():
        assert await run_in_process(abs, -1) == 1  # so that what starts workers is loaded
        for most in (100_000_000, 200_000_000, 300_000_000):
            with trio.move_on_after(0.02) as cut:
                await run_in_process(abs, -1, max_memory_bytes=most)
            assert cut.cancelled_caught
        return await run_in_process(abs, -2, max_memory_bytes=100_000_000)

    assert trio.run(main) == 2


async def test_a_limiter_of_ones_own_bounds_the_processes():
    limiter = trio.CapacityLimiter(1)
    workers = set()

    async def call():
        workers.add(await run_in_process(os.getpid, limiter=limiter))

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(call)
    assert len(workers) == 1


@pytest.mark.parametrize(
    ("fn", "args", "reason"),
    [
        (lambda: 1, (), "Can't pickle"),
        (print, (threading.Lock(),), "cannot pickle '_thread.lock' object"),
        (print, (nested(100_000),), "recursion depth"),
    ],
    ids=["a lambda", "a lock", "too deep"],
)
async def test_what_cannot_be_pickled_is_a_type_error_that_says_what_can(fn, args, reason):
    with pytest.raises(TypeError, match="must be picklable to be sent to another process") as error:
        await run_in_process(fn, *args)
    assert reason in str(error.value)
    assert "Use a function defined at the top level of a module, not a lambda" in str(error.value)


@pytest.mark.parametrize("run", [run_in_thread, run_in_process])
async def test_an_async_function_or_a_value_is_refused_at_once(run):
    with pytest.raises(
        TypeError,
        match=r"^expected a plain function, got the async function sleep: await it directly, "
        r"since it does not block the event loop$",
    ):
        await run(trio.sleep, 1)
    with pytest.raises(
        TypeError,
        match=rf"^expected a function, got 5: pass the function itself and then its arguments, "
        rf"as in await {run.__name__}\(fn, argument\)$",
    ):
        await run(5)


@pytest.mark.parametrize("run", [run_in_thread, run_in_process])
async def test_an_exception_that_ends_programs_is_the_failure_of_its_call(run):
    with pytest.raises(WorkerCrashed, match=r"^exec raised KeyboardInterrupt\('now'\)"):
        await run(exec, "raise KeyboardInterrupt('now')")
    assert await run(divmod, 7, 2) == (3, 1)


async def test_exit_in_a_thread_is_the_failure_of_its_call():
    with pytest.raises(
        WorkerCrashed, match=r"^exit raised SystemExit\(4\) in its thread$"
    ) as crash:
        await run_in_thread(sys.exit, 4)
    assert isinstance(crash.value.__cause__, SystemExit)


async def test_a_batch_takes_an_interrupt_in_a_worker_as_that_items_failure():
    texts = ["1", "raise KeyboardInterrupt", "2"]
    report = await run_batch(functools.partial(run_in_thread, exec), texts)
    assert [o.status for o in report.outcomes] == ["succeeded", "failed", "succeeded"]
    assert isinstance(report.outcomes[1].error, WorkerCrashed)


# --- bounds of a worker -----------------------------------------------------------------------


async def test_a_call_that_needs_more_memory_than_it_may_have_fails_alone():
    bounded = functools.partial(run_in_process, max_memory_bytes=400_000_000)
    first = await bounded(os.getpid)
    with pytest.raises(MemoryError, match=r"^bytearray ran out of the memory of its worker \(400,"):
        await bounded(bytearray, 500_000_000)
    assert await bounded(os.getpid) != first  # what it may have left behind went with it
    assert await run_in_process(len, bytes(10)) == 10
    unbounded = await run_in_process(resource.getrlimit, resource.RLIMIT_DATA)
    assert unbounded == resource.getrlimit(resource.RLIMIT_DATA)


async def test_a_call_that_computes_for_longer_than_it_may_ends_with_its_worker():
    bounded = functools.partial(run_in_process, max_cpu_seconds=0.5)
    first = await run_in_process(os.getpid)
    assert await bounded(os.getpid) == first
    with pytest.raises(WorkerCrashed, match=r"^exec used all the CPU time that it may have"):
        await bounded(exec, SPIN)
    # Each call has its own; and without a bound there is none, in whatever worker.
    assert await bounded(sum, range(1000)) == 499_500
    soft, _ = await run_in_process(resource.getrlimit, resource.RLIMIT_CPU)
    assert soft == resource.getrlimit(resource.RLIMIT_CPU)[0]


@pytest.mark.parametrize(
    ("bound", "kind", "message"),
    [
        (
            {"max_memory_bytes": 1000},
            ValueError,
            (
                "max_memory_bytes must be at least 67108864, got 1000: write await "
                "run_in_process(fn, argument, max_memory_bytes=500_000_000)"
            ),
        ),
        (
            {"max_memory_bytes": 1e9},
            TypeError,
            (
                "max_memory_bytes must be a whole number, got 1000000000.0: write await "
                "run_in_process(fn, argument, max_memory_bytes=500_000_000)"
            ),
        ),
        (
            {"max_cpu_seconds": 0},
            ValueError,
            (
                "max_cpu_seconds must be above 0 seconds, got 0: write await "
                "run_in_process(fn, argument, max_cpu_seconds=30)"
            ),
        ),
    ],
)
async def test_an_invalid_bound_is_refused(bound, kind, message):
    with pytest.raises(kind) as error:
        await run_in_process(len, "abc", **bound)
    assert str(error.value) == message


# --- where workers come from ------------------------------------------------------------------

PROGRAM = """
import os, resource, signal, subprocess, sys, trio
from nursery_patterns import WorkerCrashed, run_in_process

def start_python():
    return subprocess.run([sys.executable, "-c", "import socket, decimal"], check=True).returncode

async def main():
{main}

if __name__ == "__main__":
    trio.run(main)
    print("done", flush=True)
"""

UNGUARDED = """
import trio
from nursery_patterns import WorkerCrashed, run_in_process

def double(x):
    return 2 * x

async def main():
    print("main", await run_in_process(divmod, 7, 2), flush=True)
    print(await run_in_process(eval, "'trio' in __import__('sys').modules"), flush=True)
    try: await run_in_process(double, 3)
    except WorkerCrashed as error: print(error, flush=True)
    print(await run_in_process(divmod, 9, 2), flush=True)

trio.run(main)
"""


def run_program(folder, main, *, program=PROGRAM, **options):
    script = folder / "program.py"
    script.write_text(program.replace("{main}", textwrap.indent(main, "    ")))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONSAFEPATH", None)
    return subprocess.run(
        [sys.executable, script],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        timeout=100,
        **options,
    )


def test_no_worker_runs_code_of_the_working_directory(tmp_path):
    poisoned = tmp_path / "cloned"
    poisoned.mkdir()
    # What an interpreter imports on its way into a worker, or what is first imported by one.
    names = ["multiprocessing", "socket", "pickle", "tblib", "outcome", "decimal", "trio", "signal"]
    for name in names:
        poison = f"open({str(tmp_path / 'ran')!r}, 'a').write(__name__)\nraise SystemExit(9)\n"
        (poisoned / f"{name}.py").write_text(poison)
    main = (
        "worker = await run_in_process(os.getpid)\n"
        f"with trio.move_on_after(0.1): await run_in_process(exec, {SPIN!r})\n"
        "assert await run_in_process(os.getpid) != worker\n"
        "assert await run_in_process(start_python) == 0\n"
        "assert await run_in_process(os.getpid, max_memory_bytes=400_000_000) > 0\n"
    )
    ended = run_program(tmp_path, main, cwd=poisoned)
    assert (ended.stdout, ended.stderr) == ("done\n", "")
    assert not (tmp_path / "ran").exists()


def test_a_worker_imports_the_main_module_only_for_what_is_defined_there(tmp_path):
    # Without `if __name__ == "__main__":` it would run again in each worker.
    ended = run_program(tmp_path, "", program=UNGUARDED)
    first, trio_is_there, refused, last = ended.stdout.splitlines()
    assert (first, trio_is_there, last) == ("main (3, 1)", "False", "(4, 1)")
    assert refused.startswith(
        f"double is defined in the main module, {tmp_path}/program.py, which could not be imported "
        "in a worker process: RuntimeError: An attempt has been made to start a new process before"
    )
    assert refused.endswith(
        "Move double into a module of its own, or put what the main module does under "
        'if __name__ == "__main__":'
    )
    assert ended.stderr == ""


def test_a_worker_runs_functions_and_arguments_of_the_main_module(tmp_path):
    main = (
        "assert await run_in_process(divmod, 7, 2) == (3, 1)\n"
        "assert await run_in_process(area, Box(2, 3)) == Box(6, 1)\n"
        "assert await run_in_process(str, Box(2, 3)) == 'Box(width=2, height=3)'\n"
    )
    classes = (
        "from typing import NamedTuple\n"
        "class Box(NamedTuple):\n    width: int\n    height: int\n"
        "def area(box):\n    return Box(box.width * box.height, 1)\n"
    )
    ended = run_program(tmp_path, main, program=classes + PROGRAM)
    assert (ended.stdout, ended.stderr) == ("done\n", "")


@pytest.mark.parametrize("loaded", [False, True], ids=["the first call of all", "a first worker"])
def test_a_worker_that_cannot_be_started_fails_its_call_alone(loaded, tmp_path):
    main = ("import trio_parallel\n" if loaded else "") + (
        "held = []\n"
        "try:\n"
        "    while True: held.append(os.open(os.devnull, os.O_RDONLY))\n"
        "except OSError: pass\n"
        "for _ in range(3):\n"
        "    try: await run_in_process(os.getpid)\n"
        "    except OSError as error: print(error.strerror)\n"
        "for descriptor in held: os.close(descriptor)\n"
        "assert await run_in_process(divmod, 7, 2) == (3, 1)\n"
    )

    def few_descriptors():
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    ended = run_program(tmp_path, main, preexec_fn=few_descriptors)
    assert (ended.stdout, ended.stderr) == (3 * "Too many open files\n" + "done\n", "")


# --- nothing outlives the run -----------------------------------------------------------------


def test_no_worker_outlives_the_run_and_the_next_run_starts_its_own():
    first = trio.run(run_in_process, os.getpid)
    assert is_gone(first)
    second = trio.run(run_in_process, os.getpid)
    assert second != first
    assert is_gone(second)


def test_a_run_whose_idle_worker_died_badly_still_ends_well(caplog):
    async def main():
        os.kill(await run_in_process(os.getpid), signal.SIGKILL)

    with caplog.at_level(logging.DEBUG, logger="nursery_patterns.processes"):
        trio.run(main)
    assert "not all idle workers ended by themselves" in caplog.text


def test_a_run_ends_though_all_of_trios_own_threads_are_stuck():
    unstuck = threading.Event()
    in_the_end = threading.Timer(10, unstuck.set)

    async def main():
        trio.to_thread.current_default_thread_limiter().total_tokens = 1
        await run_in_process(os.getpid)
        with trio.move_on_after(0.1):
            await trio.to_thread.run_sync(unstuck.wait, abandon_on_cancel=True)
        in_the_end.start()
        return trio.to_thread.current_default_thread_limiter()

    threads = trio.run(main)
    assert not unstuck.is_set()
    assert threads.total_tokens == 1  # it is the program's
    unstuck.set()
    in_the_end.cancel()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_no_worker_outlives_a_program_that_is_killed_in_the_middle_of_a_call(how, tmp_path):
    script = tmp_path / "program.py"
    script.write_text(
        "import os, trio\n"
        "from nursery_patterns import run_in_process\n"
        "async def main():\n"
        "    print(await run_in_process(os.getpid), flush=True)\n"
        f"    await run_in_process(exec, {SPIN!r})\n"
        "if __name__ == '__main__':\n"
        "    trio.run(main)\n"
    )
    program = await trio.lowlevel.open_process(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    worker = int(await program.stdout.receive_some())
    async with program.stdout:
        with open_process_handle(worker) as handle, trio.fail_after(30):
            program.send_signal(how)
            await program.wait()
            await trio.lowlevel.wait_readable(handle)
