"""The batch engine beside its peers.

    python -m tests.benchmarks map [--quick] [--json] [--repeats N]

CPU time and peak memory are taken in a process of its own for each measurement, less start-up and
imports; contenders take turns, and the median counts. Cancel and deadline are measured in this
process, in turns with the bare nursery.
"""

import argparse
import json
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict

import trio
import trio.testing

from nursery_patterns import Batch, run_batch
from tests.benchmarks._runner import Cost, Verdict, measure_in_new_process, medians
from tests.benchmarks.map_contenders import CONTENDERS

LIMIT = 10
IN_FLIGHT = 1000
MEGABYTE = 1_000_000

# (ours, of whom, at most this many times theirs); from DESIGN.md, section 5.
RATIOS = (
    ("run_batch", "asyncio semaphore + gather", 1 / 3),
    ("run_batch", "aiometer.run_all on trio", 1 / 6),
    ("run_batch", "bare trio worker loop, no outcomes", 3.0),
    ("stream_batch", "aiometer.amap on trio", 1 / 3),
    ("run_batch over a frontier", "run_batch", 1.6),
    ("run_batch with retry", "run_batch", 1.4),
    ("run_batch with an observer", "run_batch", 1.2),
    ("stream_batch into run_batch", "two worker loops and a channel", 3.0),  # these record nothing
    ("run_batch with limits per key", "run_batch", 2.2),
    ("run_batch with an adaptive limiter", "run_batch with a shared limiter", 1.5),
    ("run_batch of single_flight", "run_batch", 4.0),
    ("run_batch of hedged", "run_batch", 12.0),
    ("slots for 1,000 keys", "slots for 10 keys", 2.0),  # O(log keys)
    ("slots for 10,000 keys", "slots for 10 keys", 3.0),
    ("run_batch over an async generator", "worker loop over an async generator", 1.5),
    ("run_batch over a channel", "worker loop over a channel", 1.5),
    ("run_batch with a bucket", "worker loop with a bucket", 1.5),
)


def run(argv: Sequence[str] = ()) -> int:
    """Measure, print, and return 0 if every bound was kept, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks map")
    parser.add_argument("--quick", action="store_true", help="a tenth of the items")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(argv)
    items = 10_000 if options.quick else 100_000
    repeats = options.repeats

    costs = _costs_per_contender(items, repeats)
    streamed = 100_000 if options.quick else 1_000_000
    stream = _measure("stream_batch", streamed)
    cancel_ours, cancel_bare = _seconds_to_cancel(2 * repeats + 1)
    late, late_bare = _seconds_late(2 * repeats + 1)
    verdicts = [
        *(
            Verdict(
                f"CPU of {ours} against {theirs}",
                costs[ours].cpu_seconds / costs[theirs].cpu_seconds,
                bound,
            )
            for ours, theirs, bound in RATIOS
        ),
        Verdict(f"peak of a stream of {streamed:,} items", stream.peak_bytes / MEGABYTE, 15, "MB"),
        Verdict(
            f"cancel of {IN_FLIGHT:,} in flight until joined, against a bare nursery",
            cancel_ours / cancel_bare,
            1.5,
        ),
        Verdict(f"a deadline with {IN_FLIGHT:,} hanging items is late by", late * 1000, 20, "ms"),
        Verdict("the same against a bare nursery within move_on_after", late / late_bare, 1.5),
    ]
    if options.json:
        _print_json(items, costs, verdicts)
    else:
        _print_table(items, costs)
        for verdict in verdicts:
            print(verdict)
    return 0 if all(verdict.reached for verdict in verdicts) else 1


def _measure(name: str, items: int) -> Cost:
    return measure_in_new_process("tests.benchmarks.map_contenders", name, items, LIMIT)


def _costs_per_contender(items: int, repeats: int) -> dict[str, Cost]:
    samples: dict[str, list[Cost]] = {name: [] for name in CONTENDERS}
    for _ in range(repeats):  # in turns, so that a busy moment of the machine hits all of them
        for name, costs in samples.items():
            costs.append(_measure(name, items))
    return {name: medians(costs) for name, costs in samples.items()}


# --- cancel, deadline ----------------------------------------------------------------------


async def _hang(_: int) -> None:
    await trio.sleep_forever()


async def _bare_nursery() -> None:
    async with trio.open_nursery() as nursery:
        for i in range(IN_FLIGHT):
            nursery.start_soon(_hang, i)


async def _ours() -> None:
    await Batch(_hang, range(IN_FLIGHT), limit=IN_FLIGHT).run()


def _seconds_to_cancel(repeats: int) -> tuple[float, float]:
    """CPU seconds from the cancel until all are joined: ours, and a bare nursery's."""
    seconds = [
        [trio.run(_time_cancel, run) for run in (_ours, _bare_nursery)] for _ in range(repeats)
    ]
    ours, bare = zip(*seconds, strict=True)
    return statistics.median(ours), statistics.median(bare)


async def _time_cancel(run: Callable[[], Awaitable[object]]) -> float:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        started = time.process_time()
    return time.process_time() - started


async def _ours_with_deadline(seconds: float) -> None:
    await run_batch(_hang, range(IN_FLIGHT), limit=IN_FLIGHT, timeout=seconds)


async def _bare_with_deadline(seconds: float) -> None:
    with trio.move_on_after(seconds):
        await _bare_nursery()


def _seconds_late(repeats: int) -> tuple[float, float]:
    """Seconds from the deadline until the call returned: ours, and a bare nursery's."""
    seconds = [
        [trio.run(_time_late, run) for run in (_ours_with_deadline, _bare_with_deadline)]
        for _ in range(repeats)
    ]
    ours, bare = zip(*seconds, strict=True)
    return statistics.median(ours), statistics.median(bare)


async def _time_late(run: Callable[[float], Awaitable[None]]) -> float:
    deadline = trio.current_time() + 0.3
    await run(0.3)
    return trio.current_time() - deadline


# --- what is printed ----------------------------------------------------------------------


def _print_json(items: int, costs: dict[str, Cost], verdicts: list[Verdict]) -> None:
    rows = {name: asdict(cost) for name, cost in costs.items()}
    checked = [{**asdict(verdict), "reached": verdict.reached} for verdict in verdicts]
    print(json.dumps({"items": items, "limit": LIMIT, "costs": rows, "bounds": checked}, indent=1))


def _print_table(items: int, costs: dict[str, Cost]) -> None:
    print(f"{items:,} items with one checkpoint each, {LIMIT} in flight; medians")
    print(f"{'':38} {'us/item':>8} {'x run_batch':>12} {'peak MB':>9} {'bytes/item':>11}")
    ours = costs["run_batch"].cpu_seconds
    for name, cost in costs.items():
        print(
            f"{name:38} {cost.cpu_seconds / items * 1e6:8.2f} {cost.cpu_seconds / ours:12.2f} "
            f"{cost.peak_bytes / MEGABYTE:9.1f} {cost.peak_bytes / items:11.0f}"
        )
    print()
