"""`run_in_cluster` beside a hand-written loop over Ray's own API.

    python -m tests.benchmarks cluster [--quick] [--json]

Both keep the same number of tasks in flight on one Ray, started once, and take turns. CPU time is
that of this process: Ray's own processes do the same work for both.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import trio

from nursery_patterns import connect_cluster, run_batch, run_in_cluster
from tests.benchmarks._runner import Verdict

IN_FLIGHT = 100
CANCELLED = 20


def double(number: int) -> int:
    return 2 * number


def run(argv: Sequence[str] = ()) -> int:
    """Measure, print, and return 0 if every bound was kept, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks cluster")
    parser.add_argument("--quick", action="store_true", help="a fifth of the items, 3 repeats")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
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
