"""What our server adds to the start of a process, which the MCP SDK and trio dominate.

python -m tests.benchmarks.startup [--rounds N] [--json]

Each start is a process of its own; the kinds of start take turns, so that whatever else goes on
in the machine is shared out between them, and a ratio is the median of those of each round. CPU
time, from the first instruction of the interpreter.
"""

from __future__ import annotations

import argparse
import json
import operator
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence

BARE = "import mcp.server.mcpserver, trio"
STARTS = {
    "the interpreter alone": "",
    "import of the MCP SDK and trio": BARE,
    "... and a bare MCPServer made": f"{BARE}\nmcp.server.mcpserver.MCPServer('bare')",
    "import trio_tools.server; create_server()": (
        "import trio_tools.server\ntrio_tools.server.create_server()"
    ),
    "trio-tools serve, until it has served nobody": (
        "import sys\nfrom trio_tools.command_line.main import main\nassert main(['serve']) == 0"
    ),
}
_MOST = 1.2


def run(argv: Sequence[str] = ()) -> int:
    """Measure, print the table; 1 if a bound is missed."""
    parser = argparse.ArgumentParser(prog="startup", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="starts of each kind")
    parser.add_argument("--json", action="store_true", help="print the figures for machines")
    options = parser.parse_args(argv)

    measured: dict[str, list[float]] = {name: [] for name in STARTS}
    for round_ in range(options.rounds + 1):
        for name, source in STARTS.items():
            seconds = cpu_seconds_of(source)
            if round_:  # the first one may still compile
                measured[name].append(seconds)
    medians = {name: statistics.median(seconds) for name, seconds in measured.items()}
    _, bare, _, *ours = STARTS
    ratios = {
        name: statistics.median(map(operator.truediv, seconds, measured[bare]))
        for name, seconds in measured.items()
    }
    if options.json:
        print(json.dumps({"cpu_seconds": medians, "ratios": ratios, "most": _MOST}))
    else:
        print(f"{'start':<46}{'CPU':>10}{'ratio':>8}   to reach")
        for name, seconds in medians.items():
            target = f"<= {_MOST}" if name in ours else ""
            print(f"{name:<46}{seconds * 1e3:>7.0f} ms{ratios[name]:>8.3f}   {target}")
    return int(any(ratios[name] > _MOST for name in ours))


def cpu_seconds_of(source: str) -> float:
    """Run a program to its end; return the CPU time that the kernel counted for it."""
    process = subprocess.Popen(
        [sys.executable, "-c", source],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "TRIO_TOOLS_LOG_LEVEL": "warning"},
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"this failed:\n{source}")
    return usage.ru_utime + usage.ru_stime


main = run

if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
