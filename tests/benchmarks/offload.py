"""What the second half of the library costs: offloading, the rate limit, admission, the monitor.

python -m tests.benchmarks.offload [--calls N]
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence

import trio

from nursery_patterns import run_in_process, run_in_thread
from nursery_patterns._admission import Admission
from nursery_patterns._step_monitor import StepMonitor
from nursery_patterns._token_bucket import TokenBucket

Row = tuple[str, str, str]
Call = Callable[[], Awaitable[object]]


def run(argv: Sequence[str] = ()) -> None:
    """Measure everything and print one table."""
    parser = argparse.ArgumentParser(prog="offload", description=__doc__)
    parser.add_argument("--calls", type=int, default=500, help="calls per measurement")
    calls = parser.parse_args(argv).calls
    rows = trio.run(measure_processes, calls) + trio.run(measure_threads, calls)
    rows += trio.run(measure_primitives, calls * 20) + trio.run(measure_monitor, calls * 100)
    print(f"{'what':<58}{'measured':>12}   to reach")
    for what, measured, target in rows:
        print(f"{what:<58}{measured:>12}   {target}")


async def seconds_of(call: Call, times: int) -> list[float]:
    measured = []
    for _ in range(times):
        began = time.perf_counter()
        await call()
        measured.append(time.perf_counter() - began)
    return measured


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3f} ms"


def microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:.2f} us"


async def measure_processes(calls: int) -> list[Row]:
    [cold] = await seconds_of(functools.partial(run_in_process, os.getpid), 1)
    warm = sorted(await seconds_of(functools.partial(run_in_process, os.getpid), calls))
    megabyte = bytes(1_000_000)
    big = await seconds_of(functools.partial(run_in_process, len, megabyte), calls // 10)
    freed = [await seconds_until_a_cancelled_core_is_free() for _ in range(10)]
    return [
        ("process: first call, new worker", milliseconds(cold), ""),
        ("process: warm call, median", milliseconds(statistics.median(warm)), "1 ms"),
        ("process: warm call, 95th of 100", milliseconds(warm[len(warm) * 95 // 100]), ""),
        ("process: warm call with 1 MB, median", milliseconds(statistics.median(big)), ""),
        (
            "process: cancel of a busy loop to its end, median",
            milliseconds(statistics.median(freed)),
            "",
        ),
        ("process: the same, worst of 10", milliseconds(max(freed)), "100 ms"),
    ]


async def seconds_until_a_cancelled_core_is_free() -> float:
    worker = await run_in_process(os.getpid)
    with trio.move_on_after(0.05) as scope:
        await run_in_process(exec, "while True: pass")
    late = trio.current_time() - scope.deadline
    try:
        os.kill(worker, 0)
    except ProcessLookupError:
        return late
    raise AssertionError("the worker is still there")


async def measure_threads(calls: int) -> list[Row]:
    ours = await seconds_of(functools.partial(run_in_thread, os.getpid), calls)
    trios = await seconds_of(functools.partial(trio.to_thread.run_sync, os.getpid), calls)
    return [
        ("thread: call, median", microseconds(statistics.median(ours)), ""),
        ("thread: trio.to_thread.run_sync, median", microseconds(statistics.median(trios)), ""),
    ]


async def measure_primitives(calls: int) -> list[Row]:
    limiter = trio.CapacityLimiter(1)
    admission = Admission(limiter, max_waiting=calls)
    bucket = TokenBucket(rate=1e9, capacity=calls)
    crowded = TokenBucket(rate=1e6, capacity=1)

    async def pass_limiter() -> None:
        async with limiter:
            pass

    async def pass_admission() -> None:
        async with admission:
            pass

    async def pass_limiter_in_line(_: int) -> None:
        async with limiter:
            await trio.lowlevel.checkpoint()

    async def pass_keyed(number: int) -> None:
        async with admission.slot(key=number % 100):
            await trio.lowlevel.checkpoint()

    async def all_at_once(call: Callable[[int], Awaitable[object]]) -> float:
        began = time.process_time()
        async with trio.open_nursery() as nursery:
            for number in range(calls):
                nursery.start_soon(call, number)
        return (time.process_time() - began) / calls

    async def acquire_one(_: int) -> None:
        await crowded.acquire()

    mean = statistics.fmean
    return [
        (
            "limiter: uncontended pass",
            microseconds(mean(await seconds_of(pass_limiter, calls))),
            "",
        ),
        ("admission: the same", microseconds(mean(await seconds_of(pass_admission, calls))), ""),
        (
            "limiter: pass in a line of all",
            microseconds(await all_at_once(pass_limiter_in_line)),
            "",
        ),
        (
            "admission: pass in a line of all, 100 keys",
            microseconds(await all_at_once(pass_keyed)),
            "",
        ),
        (
            "bucket: token that is there",
            microseconds(mean(await seconds_of(bucket.acquire, calls))),
            "",
        ),
        ("bucket: token in a line of all", microseconds(await all_at_once(acquire_one)), ""),
    ]


async def measure_monitor(steps: int) -> list[Row]:
    async def step() -> float:
        began = time.process_time()
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        return (time.process_time() - began) / steps

    bare, watched = [], []
    for _ in range(5):  # in turn, so that a busy moment of the machine falls on both
        bare.append(await step())
        with StepMonitor().watching():
            watched.append(await step())
    return [
        ("monitor: a step without it", microseconds(min(bare)), ""),
        ("monitor: added by it to each step", microseconds(min(watched) - min(bare)), ""),
    ]


if __name__ == "__main__":
    run(sys.argv[1:])
