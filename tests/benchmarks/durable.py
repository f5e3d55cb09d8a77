"""What it costs that outcomes are on the disk: CPU an item, steps of the loop, latency, a start.

    python -m tests.benchmarks durable [--quick] [--json] [--repeats N] [--folder PATH]

CPU and the longest step are taken in a process of its own for each measurement; memory and SQLite
(`synchronous=FULL`) take turns, and the median counts. The longest step of a large batch is a full
garbage collection or the report, also in memory. `--folder` is on the disk to measure.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import trio

from nursery_patterns import Batch
from tests.benchmarks._runner import Cost, Verdict, measure, medians, print_cost
from trio_tools.answers.json_values import json_bytes
from trio_tools.operations.durable.journal import OperationJournal
from trio_tools.operations.durable.location import Location
from trio_tools.operations.durable.records import Record
from trio_tools.operations.durable.writer import Writer
from trio_tools.operations.result import Result

LIMIT = 10
STORED = 10_000
SMALL = 10


async def _work(index: int) -> Result:
    """Return what an item of a server returns: its JSON."""
    await trio.lowlevel.checkpoint()
    return Result(json_bytes({"index": index, "name": f"item {index}", "tags": ["a", "b"]}))


def _record(name: str) -> Record:
    now = time.time()
    return Record(
        owner="anonymous",
        operation_id=name,
        tool="batch_process",
        name="work",
        schema="",
        request=b"[]",
        created=now,
        last_used=now,
    )


async def in_memory(path: Path, items: int) -> None:
    """Run the batch, and store nothing."""
    del path
    await Batch(_work, range(items), limit=LIMIT).run()


async def on_disk(path: Path, items: int) -> None:
    """Run the batch, and wait until all of it is on the disk."""
    writer = Writer(Location(path))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        journal = OperationJournal(writer, _record("op"))
        batch = Batch(_work, range(items), limit=LIMIT, journal=journal)
        journal.batch = batch
        writer.hold(journal)
        journal.ask(claim=True)
        await batch.run()
        writer.release(journal)
        await journal.settled()
        nursery.cancel_scope.cancel()
    if writer.trouble:
        raise RuntimeError(writer.trouble)


WAYS = {"in memory": in_memory, "on disk": on_disk}


class _LongestStep(trio.abc.Instrument):
    """Remembers the longest step of any task, in CPU time of the event loop's thread."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since = 0.0

    def before_task_step(self, task: Any) -> None:
        del task
        self._since = time.thread_time()

    def after_task_step(self, task: Any) -> None:
        del task
        self.seconds = max(self.seconds, time.thread_time() - self._since)


def run(argv: Sequence[str] = ()) -> int:
    """Measure, print, and return 0 if every bound was kept, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks durable")
    parser.add_argument("--quick", action="store_true", help="a tenth of the items, 3 repeats")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeats", type=int, default=None)
    parser.add_argument("--folder", default=None, help="where to write; a temporary one if absent")
    options = parser.parse_args(argv)
    items = 10_000 if options.quick else 100_000
    repeats = options.repeats or (3 if options.quick else 7)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        costs = _costs(Path(folder), items, repeats)
        steps = _steps(Path(folder), items, repeats)
        late = trio.run(_seconds_later, Path(folder), 10 * repeats)
        start = _start_seconds_more(Path(folder), 2 * repeats + 1)
    ours, memory = costs["on disk"].cpu_seconds, costs["in memory"].cpu_seconds
    verdicts = [
        Verdict("CPU an item beside run_batch in memory", (ours - memory) / items * 1e6, 6, "us"),
        Verdict(
            "longest step of the event loop beside the batch in memory",
            (steps["on disk"] - steps["in memory"]) * 1e3,
            20,
            "ms",
        ),
        Verdict(f"a batch of {SMALL} answers later by", late * 1e3, 15, "ms"),
        Verdict(f"a start with {STORED:,} stored operations takes more", start * 1e3, 50, "ms"),
    ]
    if options.json:
        rows = {name: asdict(cost) for name, cost in costs.items()}
        checked = [{**asdict(verdict), "reached": verdict.reached} for verdict in verdicts]
        print(
            json.dumps(
                {
                    "items": items,
                    "limit": LIMIT,
                    "costs": rows,
                    "longest_step_seconds": steps,
                    "bounds": checked,
                }
            )
        )
    else:
        print(f"{items:,} items with one checkpoint and a JSON value each, {LIMIT} in flight")
        for name, cost in costs.items():
            print(
                f"{name:12} {cost.cpu_seconds / items * 1e6:8.2f} us/item, "
                f"longest step {steps[name] * 1e3:.1f} ms"
            )
        for verdict in verdicts:
            print(verdict)
    return 0 if all(verdict.reached for verdict in verdicts) else 1


def _in_new_process(*arguments: object) -> Any:
    command = [sys.executable, "-m", "tests.benchmarks.durable", *map(str, arguments)]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


def _costs(folder: Path, items: int, repeats: int) -> dict[str, Cost]:
    samples: dict[str, list[Cost]] = {name: [] for name in WAYS}
    for _ in range(repeats):
        for name, costs in samples.items():
            costs.append(Cost(**_in_new_process("cost", name, folder, items)))
    return {name: medians(costs) for name, costs in samples.items()}


def _steps(folder: Path, items: int, repeats: int) -> dict[str, float]:
    """Return the longest step of each way in seconds: the median of several runs, in turn."""
    samples: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(repeats):
        for name, seconds in samples.items():
            seconds.append(_in_new_process("step", name, folder, items))
    return {name: statistics.median(seconds) for name, seconds in samples.items()}


# --- a small batch through the server -----------------------------------------------------


async def _seconds_later(folder: Path, repeats: int) -> float:
    """How much later a small batch answers: the median of the differences of pairs."""
    from tests.support.followed_operations import server_with  # noqa: PLC0415 - after the processes
    from trio_tools.transports.memory import connect_in_process  # noqa: PLC0415

    async def same(item: int) -> int:
        """Return the item."""
        await trio.lowlevel.checkpoint()
        return item

    asked = {"operation": "same", "items": [*range(SMALL)]}
    urls = ("memory", f"sqlite:///{folder / 'small.db'}")
    servers = [server_with(same, state={"url": url}) for url in urls]
    async with (
        connect_in_process(servers[0]) as memory,
        connect_in_process(servers[1]) as disk,
    ):
        differences: list[float] = []
        for count in range(repeats + 1):
            seconds: list[float] = []
            for client in (memory, disk):
                started = time.perf_counter()
                await client.call_tool("batch_process", asked)
                seconds.append(time.perf_counter() - started)
            if count:  # the first one opens the file
                differences.append(seconds[1] - seconds[0])
    return statistics.median(differences)


# --- a start --------------------------------------------------------------------------------


def _start_seconds_more(folder: Path, repeats: int) -> float:
    """CPU seconds that a server's start takes more with many stored operations than with none."""
    from tests.benchmarks.startup import cpu_seconds_of  # noqa: PLC0415 - after the processes

    path = folder / "stored.db"
    trio.run(_store_many, path)
    seconds = [
        [
            cpu_seconds_of(
                f"import os\nos.environ['TRIO_TOOLS_STATE__URL'] = 'sqlite:///{each}'\n"
                "from trio_tools.command_line.main import main\nassert main(['serve']) == 0"
            )
            for each in (folder / "none.db", path)
        ]
        for _ in range(repeats)
    ]
    return statistics.median(many - none for none, many in seconds)


async def _store_many(path: Path) -> None:
    writer = Writer(Location(path))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        journals = [OperationJournal(writer, _record(f"op{n}")) for n in range(STORED)]
        for journal in journals:
            journal.ask()
        for journal in journals:
            await journal.settled()
        nursery.cancel_scope.cancel()


def _main(arguments: list[str]) -> None:
    """Measure one thing in this process: `cost|step WAY FOLDER ITEMS`."""
    kind, name, folder, items = arguments
    path = Path(folder) / f"{time.time_ns()}.db"
    trio.run(WAYS[name], path.with_suffix(".first"), 100)  # imports and first uses
    if kind == "cost":
        print_cost(measure(lambda: trio.run(WAYS[name], path, int(items))))
        return
    longest = _LongestStep()
    trio.run(WAYS[name], path, int(items), instruments=[longest])
    print(longest.seconds)


if __name__ == "__main__":
    _main(sys.argv[1:])
