"""`run_in_cluster` beside a hand-written loop over Ray's own API.

    python -m tests.benchmarks cluster [--quick] [--json] [--kills]

Both keep the same number of tasks in flight on one Ray, started once, and take turns. CPU time is
that of this process: Ray's own processes do the same work for both.

With `--kills`, only this: 1,000 items that compute for 20 ms each, while a worker process that
computes is killed each second. A new worker takes Ray 0.7 s of CPU, so on a machine that has no
idle core most workers are killed in their first call. Each kill still ends at most one item.
"""

import argparse
import itertools
import json
import os
import random
import signal
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import trio

from nursery_patterns import Batch, WorkerCrashed, connect_cluster, run_batch, run_in_cluster
from tests.benchmarks._runner import Verdict

IN_FLIGHT = 100
CANCELLED = 20
KILLED_AMONG = 1_000


def double(number: int) -> int:
    return 2 * number


def run(argv: Sequence[str] = ()) -> int:
    """Measure, print, and return 0 if every bound was kept, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks cluster")
    parser.add_argument("--quick", action="store_true", help="a fifth of the items, 3 repeats")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--kills", action="store_true", help="only the items of killed workers")
    options = parser.parse_args(argv)
    if options.kills:
        return trio.run(_items_with_kills)
    items, repeats = (1_000, 3) if options.quick else (5_000, 7)
    ours, theirs, seconds = trio.run(_measure, items, repeats)
    verdicts = [
        Verdict(
            f"CPU of run_in_cluster against a loop over Ray, {IN_FLIGHT} in flight",
            statistics.median(one / other for one, other in zip(ours, theirs, strict=True)),
            1.2,
        ),
        Verdict(
            f"cancel of {CANCELLED} items that compute until every core is free", seconds, 0.5, "s"
        ),
    ]
    if options.json:
        print(json.dumps({"items": items, "bounds": [asdict(verdict) for verdict in verdicts]}))
    else:
        for name, costs in (("run_in_cluster", ours), ("a loop over Ray", theirs)):
            print(f"{name:20} {statistics.median(costs) / items * 1e6:8.0f} us of CPU an item")
        for verdict in verdicts:
            print(verdict)
    return 0 if all(verdict.reached for verdict in verdicts) else 1


async def _measure(items: int, repeats: int) -> tuple[list[float], list[float], float]:
    await connect_cluster("local")
    import ray  # noqa: PLC0415 - as the library does it

    api: Any = ray
    loop = partial(_loop_over_ray, api, api.remote(double))
    await _ours(items)
    await trio.to_thread.run_sync(loop, items)  # the workers are warm from here on
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(repeats):
        started = time.process_time()
        await _ours(items)
        ours.append(time.process_time() - started)
        theirs.append(await trio.to_thread.run_sync(_cpu_seconds, partial(loop, items)))
    return ours, theirs, await _seconds_to_cancel()


def _cpu_seconds(fn: Callable[[], object]) -> float:
    started = time.process_time()
    fn()
    return time.process_time() - started


async def _ours(items: int) -> None:
    report = await run_batch(partial(run_in_cluster, double), range(items), limit=IN_FLIGHT)
    assert sum(report.values()) == 2 * sum(range(items))


def _loop_over_ray(ray: Any, remote: Any, items: int) -> None:
    source = iter(range(items))
    pending = {remote.remote(number) for number, _ in zip(source, range(IN_FLIGHT), strict=False)}
    total = 0
    while pending:
        done, rest = ray.wait(list(pending), num_returns=1)
        pending = set(rest)
        for ref in done:
            total += ray.get(ref)
            for number in source:
                pending.add(remote.remote(number))
                break
    assert total >= 2 * sum(range(items)) - 2 * items


def spin() -> None:
    while True:
        pass


async def _seconds_to_cancel() -> float:
    """Seconds from the cancel of items that compute until as many short ones were run."""
    async with trio.open_nursery() as nursery:
        for _ in range(CANCELLED):
            nursery.start_soon(run_in_cluster, spin)
        await trio.sleep(2)  # as many as there are cores compute
        started = trio.current_time()
        nursery.cancel_scope.cancel()
    return trio.current_time() - started


# --- workers that are killed ----------------------------------------------------------------------


def compute(number: int) -> int:
    ended = time.process_time() + 0.02
    while time.process_time() < ended:
        pass
    return number


async def _items_with_kills() -> int:
    """Return 0 if each item has one outcome, and no more failed than workers were killed."""
    await connect_cluster("local")
    killed: list[int] = []
    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        batch = Batch(partial(run_in_cluster, compute), range(KILLED_AMONG), limit=IN_FLIGHT)
        nursery.start_soon(_kill_a_worker_each_second, killed, batch)
        report = await batch.run()
        nursery.cancel_scope.cancel()
    seconds = trio.current_time() - started
    crashed = sum(isinstance(outcome.error, WorkerCrashed) for outcome in report.outcomes)
    load = os.getloadavg()[0]
    print(f"{seconds:.0f} s, load {load:.0f}, {len(killed)} workers killed: {report.counts}")
    right = [outcome.index for outcome in report.outcomes] == list(range(KILLED_AMONG))
    right &= report.counts.succeeded + crashed == KILLED_AMONG and crashed <= len(killed)
    print("each item has one outcome" if right else "WRONG outcomes")
    return 0 if right else 1


async def _kill_a_worker_each_second(killed: list[int], batch: Batch[int, int]) -> None:
    for second in itertools.count(1):
        await trio.sleep(1)
        if second % 20 == 0:
            print(f"after {second} s, {len(killed)} killed: {batch.progress.value}", flush=True)
        if computing := _computing_workers():
            with suppress(ProcessLookupError):
                os.kill(victim := random.choice(computing), signal.SIGKILL)
                killed.append(victim)


def _computing_workers() -> list[int]:
    """The processes of Ray that run a call. Its agents, whose end ends the node, are not meant."""
    found: list[int] = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if command.read_bytes().startswith(b"ray::run_job"):
                found.append(int(command.parent.name))
    return found
