"""What a tool call costs, how soon a busy server hears, how a load leaves it, how soon it stops.

    python -m tests.benchmarks calls [--only cpu,latency,load,exit] [--calls N] [--repeats N]
        [--load-seconds S]

Each server runs in a process of its own. The cost is the CPU time of that process per call of a
tool that gives back its text: on our server once as the SDK's own tool, and once as a tool of ours,
under the policy of all of them. The median of the repeats counts. Times to stop are from the signal
to the end of the process.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys

from tests.benchmarks.calls_clients import started
from tests.benchmarks.calls_exit import stops
from tests.benchmarks.calls_live import latency, load
from tests.benchmarks.calls_servers import SERVERS

TARGETS = (
    ("ours, stdio", "SDK, stdio on trio", 1.15),
    ("under our policy, stdio", "SDK, stdio on trio", 1.15),
    ("ours, HTTP", "SDK, HTTP on Hypercorn's trio", 1.15),
    # With admission, the envelope and the watch for departed callers, which the other has not.
    ("under our policy, HTTP", "SDK, HTTP on Hypercorn's trio", 1.15),
)


def run(argv=()):
    """Measure, print, and return 0 if every target was reached, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks calls")
    parser.add_argument("--only", default=",".join(SECTIONS), metavar="SECTION,...")
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--load-seconds", type=float, default=30)
    options = parser.parse_args(argv)
    chosen = options.only.split(",")
    if unknown := set(chosen) - SECTIONS.keys():
        parser.error(f"no section {', '.join(sorted(unknown))}; there are: {', '.join(SECTIONS)}")
    results = [result for section in chosen for result in SECTIONS[section](options)]
    for text, reached in results:
        print(f"{'ok  ' if reached else 'MISS'} {text}", flush=True)
    return 0 if all(reached for _, reached in results) else 1


def costs(options):
    print("CPU of the server per call, microseconds")
    taken = {name: [] for name in SERVERS}
    for _, name in itertools.product(range(options.repeats), SERVERS):
        taken[name].append(cost(name, options.calls))
    for name, times in taken.items():
        print(f"  {name:32} {statistics.median(times) * 1e6:7.0f}")
    for mine, theirs, most in TARGETS:
        # Of runs one right after the other: the machine's speed changes from minute to minute.
        pairs = zip(taken[mine], taken[theirs], strict=True)
        ratio = statistics.median(ours / others for ours, others in pairs)
        yield f"{mine} / {theirs}: {ratio:.2f}, at most {most}", ratio <= most


def cost(name, calls):
    with started(name) as server:
        talk = server.connect()
        for number in range(200):  # whatever is done once
            talk.echo(number)
        before = server.cpu_seconds()
        for number in range(1000, 1000 + calls):
            talk.echo(number)
        return (server.cpu_seconds() - before) / calls


SECTIONS = {"cpu": costs, "latency": latency, "load": load, "exit": stops}

if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
