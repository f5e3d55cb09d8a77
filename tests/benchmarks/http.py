"""CPU time per request of the HTTP engine beside its competition.

    python -m tests.benchmarks http [--requests N] [--repeats N] [--in-flight 10,100,500]
                                    [--plain-only] [--json]

Every contender runs in a process of its own, start-up not counted. Contenders take turns: times are
medians of the rounds, and a ratio is the median of the ratios within each round, so that a machine
that changes its speed changes neither. The server is loopback nginx where it is installed,
otherwise a bundled one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence

from tests.benchmarks.http_contenders import CONTENDERS
from tests.benchmarks.http_server import Servers, running_servers

OURS = "Fetcher, as fetch_urls uses it"
# (of whom, in flight, at most this many times theirs); from DESIGN.md, section 5.
TARGETS = (
    ("aiohttp, a session per request", 10, 1 / 2),
    ("aiohttp, a session per request", 100, 1 / 2),
    ("aiohttp, a session per request", 500, 1 / 2),
    ("aiohttp, one shared session", 10, 1.0),
    ("aiohttp, one shared session", 100, 1.0),
    ("aiohttp, one shared session", 500, 1.0),
    ("httpx on trio, stock transport", 100, 1 / 6),
    ("httpx on trio, stock transport", 500, 1 / 15),
)
MAX_GROWTH = 1.4

Table = dict[str, dict[int, list[float]]]
"""Contender -> requests in flight -> microseconds of CPU per request, in each round."""


def run(argv: Sequence[str] = ()) -> int:
    """Measure, print, and return 0 if every target was reached, else 1."""
    options = _options(argv)
    in_flight = [int(text) for text in options.in_flight.split(",")]
    tables: dict[str, Table] = {}
    with running_servers() as servers:
        urls = {"plain": servers.plain_url, "TLS": servers.tls_url}
        for title in ("plain",) if options.plain_only else ("plain", "TLS"):
            tables[title] = _measure(servers, urls[title], in_flight, options)
            if not options.json:
                _print(f"{title}, {servers.kind}", tables[title])
    verdicts = [verdict for title in tables for verdict in _verdicts(title, tables[title])]
    if options.json:
        print(json.dumps({"server": servers.kind, "tables": tables, "targets": verdicts}))
    else:
        for verdict in verdicts:
            print(verdict)
    return 0 if all(verdict["reached"] for verdict in verdicts) else 1


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks http")
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--in-flight", default="10,100,500")
    parser.add_argument("--plain-only", action="store_true")
    parser.add_argument("--only", default="", help="contenders whose name contains this")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(argv)


def _measure(
    servers: Servers, url: str, in_flight: list[int], options: argparse.Namespace
) -> Table:
    names = [name for name in CONTENDERS if options.only in name]
    table: Table = {name: {count: [] for count in in_flight} for name in names}
    for _ in range(options.repeats):
        for count in in_flight:
            for name in names:
                taken = _cpu_seconds(name, url, options.requests, count, servers.ca_file)
                table[name][count].append(1e6 * taken / options.requests)
    return table


def _cpu_seconds(name: str, url: str, requests: int, in_flight: int, ca_file: str) -> float:
    command = [sys.executable, "-m", "tests.benchmarks.http_contenders"]
    done = subprocess.run(
        [*command, name, url, str(requests), str(in_flight), ca_file],
        check=True,
        capture_output=True,
        text=True,
    )
    return float(done.stdout)


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def _verdicts(title: str, table: Table) -> list[dict[str, object]]:
    if OURS not in table:
        return []
    ours = table[OURS]
    verdicts: list[dict[str, object]] = []
    for name, count, bound in TARGETS:
        if count in table.get(name, {}):
            ratio = _ratio(ours[count], table[name][count])
            verdicts.append(_verdict(f"{title}: ours / {name} at {count} in flight", ratio, bound))
    if len(ours) > 1:
        growth = _ratio(ours[max(ours)], ours[min(ours)])
        label = f"{title}: growth from {min(ours)} to {max(ours)} in flight"
        verdicts.append(_verdict(label, growth, MAX_GROWTH))
    return verdicts


def _verdict(what: str, ratio: float, bound: float) -> dict[str, object]:
    return {
        "what": what,
        "ratio": round(ratio, 3),
        "at most": round(bound, 3),
        "reached": ratio <= bound,
    }


def _print(title: str, table: Table) -> None:
    counts = list(next(iter(table.values())))
    print(f"\n{title}: microseconds of CPU per request, by requests in flight")
    print(f"{'':34}" + "".join(f"{count:>9}" for count in counts) + "   ours / theirs")
    for name, row in table.items():
        ratios = (f"{_ratio(table[OURS][c], row[c]):.2f}" for c in counts) if OURS in table else ()
        cells = "".join(f"{statistics.median(row[c]):9.0f}" for c in counts)
        print(f"{name:34}{cells}   {' '.join(ratios)}", flush=True)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
