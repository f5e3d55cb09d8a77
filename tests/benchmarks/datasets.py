"""A file of many lines read through in chunks of 1,000, beside one pass of `csv` or `json` over it.

    python -m tests.benchmarks datasets [--lines N] [--repeats N]

The passes take turns; a ratio is the median of the ratios within each round. A chunk has an object
for each record, so the pass to compare with is the one that makes objects too: `csv.DictReader`,
and `json.loads` of each line. `csv.reader`, which makes lists, is shown beside it.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import trio

from trio_tools.files.datasets import Dataset
from trio_tools.files.roots import FileRoots

BOUND = 2.0
_CHUNK = 1_000

Pass = Callable[[Path], int]


def run(argv: Sequence[str] = ()) -> int:
    """Measure, print, and return 0 if both kinds of files keep the bound, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks datasets")
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        table, lines = Path(name) / "table.csv", Path(name) / "lines.jsonl"
        _write(table, lines, options.lines)
        kept = [
            _compare(table, options, {"csv.DictReader": _dict_reader, "csv.reader": _reader}),
            _compare(lines, options, {"json.loads": _json_loads}),
        ]
    return 0 if all(kept) else 1


def _write(table: Path, lines: Path, count: int) -> None:
    names = ("id", "name", "city", "amount", "note")
    with table.open("w", newline="") as csv_file, lines.open("w") as json_file:
        writer = csv.writer(csv_file)
        writer.writerow(names)
        for number in range(count):
            row = (number, f"name {number}", "Lisbon", number / 8, "paid in full")
            writer.writerow(row)
            json_file.write(json.dumps(dict(zip(names, row, strict=True))) + "\n")


def _compare(path: Path, options: argparse.Namespace, passes: dict[str, Pass]) -> bool:
    """Print a row for each pass; the first one is the one to compare with."""
    taken: dict[str, list[float]] = {name: [] for name in ("ours", *passes)}
    for _ in range(options.repeats):
        for name, read in {"ours": _in_chunks, **passes}.items():
            before = time.process_time()
            count = read(path)
            taken[name].append(time.process_time() - before)
            if count != options.lines:
                raise RuntimeError(f"{name} read {count} records of {options.lines}")
    print(f"\n{path.name}, {options.lines:,} records: microseconds of CPU per record")
    ratios: dict[str, float] = {}
    for name, seconds in taken.items():
        pairs = zip(taken["ours"], seconds, strict=True)
        ratios[name] = statistics.median(ours / theirs for ours, theirs in pairs)
        cost = statistics.median(seconds) / options.lines * 1e6
        print(f"{name:16}{cost:8.2f}   ours / this {ratios[name]:6.2f}")
    first = next(iter(passes))
    reached = ratios[first] <= BOUND
    verdict = "reached" if reached else "MISSED"
    print(f"ours / {first}: {ratios[first]:.2f}, at most {BOUND}: {verdict}", flush=True)
    return reached


def _in_chunks(path: Path) -> int:
    """Read as `process_large_dataset` does: each chunk opens the file where the last one ended."""
    dataset = Dataset(FileRoots([path.parent]), str(path))

    def read() -> int:
        count, position = 0, None
        while True:
            chunk = dataset.read_chunk(position, _CHUNK)
            count += len(chunk.items)
            position = chunk.next_position
            if position is None:
                return count

    return trio.run(trio.to_thread.run_sync, read)


def _dict_reader(path: Path) -> int:
    with path.open(newline="") as file:
        return sum(1 for _ in csv.DictReader(file))


def _reader(path: Path) -> int:
    with path.open(newline="") as file:
        return sum(1 for _ in csv.reader(file)) - 1


def _json_loads(path: Path) -> int:
    with path.open() as file:
        return sum(1 for line in file if json.loads(line))


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
